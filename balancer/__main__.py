"""`ns7` and `python -m balancer`: a command, or with --role one of the supervisor's children."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry of the console script; returns the exit code."""
    if sys.argv[1:2] == ["--role"] and len(sys.argv) == 5:
        from balancer.process.kinds import run

        run(sys.argv[2], int(sys.argv[4]))
        return 0
    from balancer.cli import parser
    from balancer.errors import Ns7Error

    try:
        arguments = parser(*sys.argv[1:2]).parse_args()
        code: int = arguments.run(arguments)
        return code
    except Ns7Error as error:
        print(f"ns7: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
