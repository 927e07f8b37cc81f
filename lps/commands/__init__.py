"""The commands of `lps`, in the order of its help.

The command NAME is the module lps.commands.NAME with `HELP`, one line, `add_arguments(parser)` and `run(arguments)`,
which returns the exit code. A module imports torch and the rest of the library inside `run`, so that --help is fast.
"""

COMMANDS = (
    *("train", "evaluate", "video", "trajectories", "export", "data", "collect", "tasks", "agents"),
    *("serve", "ping", "replay", "drive"),
)
