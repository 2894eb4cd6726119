"""Why a row or a file is refused."""

RULE_VERSION = "2"  # of all rules of the screen and the formats; raise it when one changes


class RefusedError(Exception):
    """One row is refused; the argument is the reason code."""

    rule_version = RULE_VERSION
    keeps_excerpt = True

    @property
    def reason(self) -> str:
        return str(self.args[0])


class BadFileError(ValueError):
    """A file is refused whole: `path: reason_code: what is wrong; what to do`."""

    def __init__(self, path: object, reason: str, message: str) -> None:
        super().__init__(f"{path}: {reason}: {message}")
        self.reason = reason


KNOWN_SCHEMAS = (1, "1", "1.0")


def check_schema_version(where: object, value: dict[str, object]) -> None:
    """Raises BadFileError where a row or a manifest names a version of the schema that is not known."""
    version = value.get("schema_version", 1)
    if isinstance(version, bool) or version not in KNOWN_SCHEMAS:
        raise BadFileError(
            where, "schema_unknown", f"schema_version is {str(version)[:40]!r}; only 1 is known: convert the rows to it"
        )
