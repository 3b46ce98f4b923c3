"""What schemathesis checks of Tidemark's API beside its own checks."""

import schemathesis

# The parameters whose values no schema describes: queries and cursors.
MAY_BE_REFUSED = {"q", "cursor"}


@schemathesis.check
def only_queries_and_cursors_are_refused(ctx, response, case):
    """A request that the document allows is refused for its query or its cursor alone."""
    if response.status_code == 400 and case.meta is not None and case.meta.generation.mode.is_positive:
        parameter = response.json().get("parameter")
        assert parameter in MAY_BE_REFUSED, f"parameter {parameter!r} is as the document says, and was refused"
