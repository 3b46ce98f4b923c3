"""What schemathesis checks of Tidemark's API beside its own checks."""

import schemathesis

# The parameters whose values no schema describes: queries and cursors.
MAY_BE_REFUSED = {"q", "cursor"}
# The type of a problem with status 504: there is no other one.
NOT_VISIBLE = "urn:tidemark:problem:not-visible"


@schemathesis.check
def only_queries_and_cursors_are_refused(ctx, response, case):
    """A request that the document allows is refused for its query or its cursor alone."""
    if response.status_code == 400 and case.meta is not None and case.meta.generation.mode.is_positive:
        parameter = response.json().get("parameter")
        assert parameter in MAY_BE_REFUSED, f"parameter {parameter!r} is as the document says, and was refused"


@schemathesis.check
def only_tokens_that_are_waited_for_do_not_become_visible(ctx, response, case):
    """A 504 answers a request that names `min_token`, with the problem that the document has for it."""
    if response.status_code == 504:
        problem = response.json()
        assert problem.get("type") == NOT_VISIBLE, f"504 is the problem {problem.get('type')!r}"
        assert problem.get("parameter") == "min_token" and "min_token" in (case.query or {}), f"504 without a token: {problem}"
