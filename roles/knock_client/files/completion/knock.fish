# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What Tab offers after `knock` in fish.

function __knock_needs_host --description 'Is the host, or the name of a profile, still to come?'
    set -l previous ''
    for word in (commandline --tokenize --cut-at-cursor --current-process)[2..-1]
        switch $previous
            case -p --profile -d --delay -t --timeout
            case '*'
                # A number right after --wait is its port.
                if not string match --quiet -- '-*' $word
                    if not string match --quiet --regex -- '^(-w|--wait)$' $previous
                        return 1
                    else if not string match --quiet --regex -- '^[0-9]+$' $word
                        return 1
                    end
                end
        end
        set previous $word
    end
    return 0
end

complete -c knock -f
# Of the same name twice, fish shows what came last: profiles, which are hosts of ssh as well.
complete -c knock -n __knock_needs_host -a '(__fish_print_hostnames)' -d Host
complete -c knock -n __knock_needs_host -a '(command knock --list 2>/dev/null)'
complete -c knock -s u -l udp -d 'Ports without a protocol are of udp'
complete -c knock -s d -l delay -x -d 'Wait so many milliseconds between two knocks'
complete -c knock -s 4 -l ipv4 -d 'Use IPv4'
complete -c knock -s 6 -l ipv6 -d 'Use IPv6'
complete -c knock -s p -l profile -r -F -d 'Take the sequence from a file'
complete -c knock -s l -l list -d 'List the profiles that have a name'
complete -c knock -s w -l wait -d 'Repeat the knock until the port is open'
complete -c knock -s c -l check -d 'Look, knock, look'
complete -c knock -s t -l timeout -x -d 'Give up waiting after so many seconds'
complete -c knock -s j -l json -d 'Say how it went as one JSON object'
complete -c knock -s v -l verbose -d 'Say what is done'
complete -c knock -s V -l version -d 'Print the version'
complete -c knock -s h -l help -d 'Print the options'
