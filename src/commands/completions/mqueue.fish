# Completions of mqueue for fish. The program finds them: see `mqueue completions --help`.

function __mqueue_complete
    command -sq mqueue; or return
    set -l words (commandline -opc)
    set -e words[1]
    set -l typed (commandline -ct)
    set -l current (string unescape -- $typed 2>/dev/null; or string replace -r '^["\']' '' -- $typed)
    set -l lines (command mqueue __complete fish $words "$current" 2>/dev/null </dev/null)
    set -l how (string split -m 1 \t -- $lines[1])
    set -e lines[1]
    set -l path (string sub -s (math (string length -- "$how[2]") + 1) -- "$current")
    switch "$how[1]"
        case files
            for file in (__fish_complete_path "$path")
                printf '%s%s\n' "$how[2]" $file
            end
        case folders
            for folder in (__fish_complete_directories "$path")
                printf '%s%s\n' "$how[2]" $folder
            end
        case words
            for line in $lines
                printf '%s%s\n' "$how[2]" (string sub -s 2 -- $line)
            end
    end
end

complete -c mqueue -e
complete -c mqueue -f -a '(__mqueue_complete)'
