"""`python -m rtpproxy` is the program itself."""

from rtpproxy.cli.command import main

if __name__ == "__main__":
    main()
