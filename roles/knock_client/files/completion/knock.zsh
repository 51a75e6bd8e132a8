#compdef knock
# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# What Tab offers after `knock` in zsh.

_knock_host() {
    local -a profiles
    local name host
    if (( ! ${+opt_args[-p]} && ! ${+opt_args[--profile]} )); then
        _call_program profiles ${(q)words[1]} --list 2>/dev/null | while IFS=$'\t' read -r name host; do
            profiles+=("${name//:/\\:}:$host")
        done
        _describe -t profiles profile profiles && return
    fi
    _hosts
}

_arguments -s -S \
    '(-u --udp)'{-u,--udp}'[ports without a protocol are of udp]' \
    '(-d --delay)'{-d+,--delay=}'[wait between two knocks]:milliseconds: ' \
    '(-4 --ipv4 -6 --ipv6)'{-4,--ipv4}'[use IPv4]' \
    '(-4 --ipv4 -6 --ipv6)'{-6,--ipv6}'[use IPv6]' \
    '(-p --profile)'{-p+,--profile=}'[take the sequence from a file]:profile:_files' \
    '(- *)'{-l,--list}'[list the profiles that have a name]' \
    '(-w --wait)'{-w+,--wait=}'[repeat the knock until the port is open]::port: ' \
    '(-c --check)'{-c,--check}'[look, knock, look]' \
    '(-t --timeout)'{-t+,--timeout=}'[give up waiting]:seconds: ' \
    '(-j --json)'{-j,--json}'[say how it went as one JSON object]' \
    '(-v --verbose)'{-v,--verbose}'[say what is done]' \
    '(- *)'{-V,--version}'[print the version]' \
    '(- *)'{-h,--help}'[print the options]' \
    '1:host:_knock_host' \
    '*:port: '
