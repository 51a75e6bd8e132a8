# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
# What Tab offers after `knock` in bash, as old as macOS's 3.2, with and without bash-completion.

_knock() {
    # COMP_WORDS are split at colons too, which IPv6 addresses have: the line is read as a person does.
    local line=${COMP_LINE:0:COMP_POINT} current previous word name rest hosts=0 profile=''
    local -a words
    read -ra words <<<"$line"
    case $line in
        *[[:blank:]]) current='' ;;
        *)
            current=${words[${#words[@]} - 1]}
            unset "words[${#words[@]}-1]"
            ;;
    esac
    previous=''
    for word in "${words[@]:1}"; do
        case $previous:$word in
            -p:* | --profile:*) profile=$word ;;
            -d:* | --delay:* | -t:* | --timeout:* | *:-*) ;;
            -w:*[!0-9]* | --wait:*[!0-9]*) hosts=$((hosts + 1)) ;;
            -w:* | --wait:*) ;; # its port
            *) hosts=$((hosts + 1)) ;;
        esac
        previous=$word
    done

    COMPREPLY=()
    case $previous in
        -p | --profile)
            while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -f -- "$current")
            return
            ;;
        -d | --delay | -t | --timeout) return ;;
    esac
    if [ "${current#-}" != "$current" ]; then
        while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -W '--udp --delay --ipv4 --ipv6 --profile
            --list --wait --check --timeout --json --verbose --version --help' -- "$current")
    elif [ "$hosts" = 0 ]; then
        if [ -z "$profile" ]; then
            # Not by compgen -W, which would run what a name has in $(...).
            while IFS=$'\t' read -r name rest; do
                case $name in "$current"*) COMPREPLY+=("$name") ;; esac
            done < <("${1/#\~/$HOME}" --list 2>/dev/null)
        fi
        while IFS= read -r name; do COMPREPLY+=("$name"); done < <(compgen -A hostname -- "$current")
    fi
    # readline replaces only what follows the last colon.
    if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
        rest=${current%"${current##*:}"}
        for name in "${!COMPREPLY[@]}"; do COMPREPLY[name]=${COMPREPLY[name]#"$rest"}; done
    fi
}
complete -F _knock knock
