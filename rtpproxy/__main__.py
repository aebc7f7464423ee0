"""The program `rtpproxy`, which `python -m rtpproxy` is, too."""

import sys

from rtpproxy.cli.early import bind_early


def main() -> None:
    """Bind what must be bound first of all, and run the command."""
    bound = bind_early(sys.argv[1:])
    from rtpproxy.cli import command

    command.main(bound)


if __name__ == "__main__":
    main()
