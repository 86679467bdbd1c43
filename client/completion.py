"""``--completion``: scripts that complete the client's command line in a shell, from the schema.

A script holds all that it says: completing a word calls nothing, so it is as fast as the shell, and asks no server. It
knows the commands, the options, the words that can only be one of a few, and the names of all others.
"""

from collections.abc import Iterable, Sequence

from client import options, words
from client.commands import Command
from rpc import catalogue

Known = Sequence[tuple[Command, Sequence[words.Word]]]

_ARGUMENTS = [option for option in options.TABLE if option.argument]

_BASH = r"""# Completion of vdsClient for bash. Made by: vdsClient --completion bash
# Try it: source <(vdsClient --completion bash)
# Install it: as /etc/bash_completion.d/vdsClient or ~/.local/share/bash-completion/completions/vdsClient
_vdsClient() {
    # Bash splits at colons and equal signs, too; an address or a key=value is one word here.
    local -a words=() names=() choices=()
    local word glued=
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ $word == [:=]* && ${#words[@]} -gt 1 ]]; then
            words[-1]+=$word
            glued=1
        elif [[ $glued ]]; then
            words[-1]+=$word
            glued=
        else
            words+=("$word")
        fi
    done
    local -i at=1 last=${#words[@]}-1
    local current=${words[last]}
    while ((at < last)); do
        case ${words[at]} in
            @TAKING@) at+=2 ;;
            -*) at+=1 ;;
            *) break ;;
        esac
    done
    local -i place=last-at-2
    COMPREPLY=()
    if ((at > last)); then
        case ${words[last-1]} in
@OPTION_ARGUMENTS@
        esac
    elif ((at == last)); then
        if [[ $current == -* ]]; then
            choices=(@OPTIONS@)
        else
            choices=(0 localhost)
        fi
    elif ((at + 1 == last)); then
        choices=(
@COMMANDS@
        )
    else
        _vdsClient_words "${words[at+1]}"
        if [[ $current == -* ]]; then
            case ${words[at+1]} in
@FLAGS@
            esac
        fi
    fi
    if ((${#choices[@]})); then
        mapfile -t COMPREPLY < <(compgen -W "${choices[*]}" -- "$current")
    elif [[ ! $current && ${names[place]-} && $COMP_TYPE -ne 37 ]]; then
        # Two that have no beginning in common: shown, and never inserted.
        COMPREPLY=("<${names[place]}>" " ")
    fi
}

@WORDS@

complete -F _vdsClient vdsClient
"""

_ZSH = r"""#compdef vdsClient
# Completion of vdsClient for zsh. Made by: vdsClient --completion zsh
# Try it: source <(vdsClient --completion zsh)
# Install it: as _vdsClient in a directory of $fpath, for instance /usr/local/share/zsh/site-functions
_vdsClient() {
    local -i at=2 place
    local -a names choices described
    while ((at < CURRENT)); do
        case ${words[at]} in
            (@TAKING@) at+=2 ;;
            (-*) at+=1 ;;
            (*) break ;;
        esac
    done
    if ((at > CURRENT)); then
        case ${words[CURRENT-1]} in
@OPTION_ARGUMENTS@
        esac
    elif ((at == CURRENT)); then
        if [[ ${words[CURRENT]} == -* ]]; then
            described=(
@OPTIONS@
            )
            _describe -o option described
        else
            compadd -X server 0 localhost
        fi
    elif ((at + 1 == CURRENT)); then
        described=(
@COMMANDS@
        )
        _describe command described
    else
        place=CURRENT-at-1
        _vdsClient_words ${words[at+1]}
        if [[ ${words[CURRENT]} == -* ]]; then
            case ${words[at+1]} in
@FLAGS@
            esac
        fi
        if ((${#choices})); then
            compadd -X "${names[place]}" -a -- choices
        else
            _message -r "${names[place]:-no more arguments}"
        fi
    fi
}

@WORDS@

if [[ ${funcstack[1]} == _vdsClient ]]; then
    _vdsClient "$@"
else
    compdef _vdsClient vdsClient
fi
"""


_WORDS = """# Sets names, and choices for the word at place. (They belong to the caller.)
_vdsClient_words() {
    case $1 in
@NAMES@
    esac
    case $1:$place in
@CHOICES@
    esac
}"""


def script(shell: str, schema: catalogue.Catalogue, commands: Iterable[Command]) -> list[str]:
    """Lines of the script.

    Args:
        shell: one of `options.SHELLS`.
    """
    found = [(command, words.of(command, schema.types)) for command in commands]
    parts, text = (_bash_parts(found), _BASH) if shell == "bash" else (_zsh_parts(found), _ZSH)
    text = text.replace("@WORDS@", _WORDS)
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text.splitlines()


def quoted(text: str) -> str:
    """Text as one word of a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def _bash_parts(found: Known) -> dict[str, str]:
    names = [
        f"        {command.name}) names=({' '.join(quoted(word.name) for word in known)}) ;;"
        for command, known in found
        if known
    ]
    arguments = [f"            --{option.long}) {_bash_argument(option)} ;;" for option in _ARGUMENTS]
    return {
        "TAKING": " | ".join(f"--{option.long}" for option in _ARGUMENTS),
        "OPTION_ARGUMENTS": "\n".join(arguments),
        "OPTIONS": " ".join(name for option in options.TABLE for name in option.names),
        "COMMANDS": "\n".join(f"            {command.name}" for command, _ in found),
        "FLAGS": "\n".join(_flags(found)),
        "NAMES": "\n".join(names),
        "CHOICES": "\n".join(f"        {' | '.join(where)}) choices=({what}) ;;" for what, where in _choices(found, 0)),
    }


def _bash_argument(option: options.Option) -> str:
    if option.choices:
        return f"choices=({' '.join(option.choices)})"
    return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$current")'


def _zsh_parts(found: Known) -> dict[str, str]:
    names = [
        f"        ({command.name}) names=({' '.join(quoted(_hint(word)) for word in known)}) ;;"
        for command, known in found
        if known
    ]
    arguments = [f"            (--{option.long}) {_zsh_argument(option)} ;;" for option in _ARGUMENTS]
    described = [f"{name}:{option.words}" for option in options.TABLE for name in option.names]
    return {
        "TAKING": "|".join(f"--{option.long}" for option in _ARGUMENTS),
        "OPTION_ARGUMENTS": "\n".join(arguments),
        "OPTIONS": "\n".join(f"                {quoted(text)}" for text in described),
        "COMMANDS": "\n".join(f"            {quoted(f'{each.name}:{_summary(each)}')}" for each, _ in found),
        "FLAGS": "\n".join(_flags(found)),
        "NAMES": "\n".join(names),
        "CHOICES": "\n".join(f"        ({'|'.join(where)}) choices=({what}) ;;" for what, where in _choices(found, 1)),
    }


def _zsh_argument(option: options.Option) -> str:
    return f"compadd {' '.join(option.choices)}" if option.choices else "_directories"


def _flags(found: Known) -> list[str]:
    return [
        f"                ({command.name}) choices=({' '.join(words.flags(command))}) ;;"
        for command, _ in found
        if words.flags(command)
    ]


def _choices(found: Known, first: int) -> list[tuple[str, list[str]]]:
    """Choices, and the places that have them as ``command:place``.

    Args:
        first: the number of the first place.
    """
    places: dict[str, list[str]] = {}
    for command, known in found:
        for place, word in enumerate(known, first):
            if word.choices:
                places.setdefault(" ".join(word.choices), []).append(f"{command.name}:{place}")
    return list(places.items())


def _hint(word: words.Word) -> str:
    name = f"[{word.name}]" if word.optional else word.name
    return f"{name}: {word.about}" if word.about else name


def _summary(command: Command) -> str:
    return command.verb.summary if command.verb is not None else command.usage[-1]
