"""The parameter study's command; see run.py."""

from run import main

if __name__ == "__main__":
    main()
