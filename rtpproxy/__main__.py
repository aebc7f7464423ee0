"""`python -m rtpproxy` is the program itself."""

from rtpproxy.cli import main

if __name__ == "__main__":
    main()
