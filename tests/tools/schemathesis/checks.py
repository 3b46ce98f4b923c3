"""What schemathesis checks of Tidemark's API beside its own checks."""

import schemathesis

# The parameters whose values no schema describes: queries and cursors.
MAY_BE_REFUSED = {"q", "cursor"}
# The same of one path alone: a place in the changes may be one of another log, or lie in the future.
MAY_BE_REFUSED_AT = {"/v1/changes": {"from"}}
# The one answer of 500 or more that is no fault: nobody appended the entry of the token that the request waits for.
NOT_VISIBLE = (504, "urn:tidemark:problem:not-visible", "min_token")


@schemathesis.check
def only_queries_and_places_are_refused(ctx, response, case):
    """A request that the document allows is refused for its query, its cursor, or where its changes start, alone."""
    if response.status_code == 400 and case.meta is not None and case.meta.generation.mode.is_positive:
        parameter = response.json().get("parameter")
        allowed = MAY_BE_REFUSED | MAY_BE_REFUSED_AT.get(case.operation.path, set())
        assert parameter in allowed, f"parameter {parameter!r} is as the document says, and was refused"


@schemathesis.check
def only_a_token_that_is_not_visible_is_a_server_error(ctx, response, case):
    """A request fails on the server's side in one documented way, and only where it names a token."""
    if response.status_code < 500:
        return
    problem = response.json()
    answer = (response.status_code, problem.get("type"), problem.get("parameter"))
    assert answer == NOT_VISIBLE, f"a request is answered {answer}, and only {NOT_VISIBLE} is allowed"
    assert "min_token" in case.query, "a request without min_token waits for no token"
