"""python: what a program prints, run in the sandbox."""

from tasks.rlhf.verification import Resources

FAILED = "error"


def use(argument: str, resources: Resources) -> str:
    """Its output without surrounding space; `error` where it failed or broke a limit."""
    if resources.run_code is None:
        raise ValueError("the tool python needs the sandbox, and there is none here")
    printed = resources.run_code(argument)
    return FAILED if printed is None else printed.strip()


def failed(result: str) -> bool:
    return result == FAILED
