"""schemathesis over the server's own OpenAPI description: whatever is sent, no 5xx, and no answer but a described one.

Bodies and paths are generated from the description, right ones and wrong ones.
"""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from served import serve
from test_serve import answering

checks.load_all_checks()
PROMISED = [
    getattr(checks, name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]
OPERATIONS = [
    ("/v1/chat/completions", "post", 150),
    ("/v1/completions", "post", 150),
    ("/v1/models", "get", 5),
    ("/v1/models/{name}", "get", 30),
    ("/health", "get", 5),
    ("/metrics", "get", 5),
]
QUICKLY = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.explicit, Phase.generate]}


@pytest.fixture(scope="module")
def served():
    with serve(answering(), max_body=2**16) as served:
        yield served
        assert served.idle()


@pytest.fixture(scope="module")
def description(served):
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def test_every_operation_is_tried(description):
    described = {(path, method) for path in description for method in description[path]}
    assert described == {(path, method) for path, method, _ in OPERATIONS}


@pytest.mark.parametrize(("path", "method", "examples"), OPERATIONS)
def test_operation(description, path, method, examples):
    operation, seen = description[path][method], []
    modes = [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * ("{" in path or method == "post")
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @settings(max_examples=examples, **QUICKLY)
    @given(case=cases)
    def check(case):
        seen.append(case.call_and_validate(checks=PROMISED).status_code)

    check()
    if method == "post":
        assert {200, 400} <= set(seen)
