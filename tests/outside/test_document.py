"""`/openapi.json`, and whether the shop keeps to it.

OUTSIDE_EXAMPLES is how many requests are made up for each operation, and OUTSIDE_SEED where they begin.
"""

import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import shops

EXAMPLES = shops.environment_number("OUTSIDE_EXAMPLES", 150)
SEED = shops.environment_number("OUTSIDE_SEED", 1)
TESTER = Path(sys.executable).with_name("schemathesis")
CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "unsupported_method",
]
# A bound for a run that never ends; one takes about a second for each example.
TIME_S = 120 + 10 * EXAMPLES
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}"
KNOWN = "65e3aaef-b7a8-4314-adcc-4369a7fa536d"
SKUS = {"enum": [sku for sku, *_ in shops.SHELF]}
# The second one is nobody's.
IDENTITIES = {"enum": [KNOWN, KNOWN.replace("6", "7")]}
# What the modules take of what the types allow, by the name of a field or parameter. A slow card is left out, for time.
TAKEN = {
    "after": SKUS,
    "available": {"type": "integer", "minimum": 50, "maximum": 1000},
    "description": {"type": "string", "pattern": "^[ -~]{0,40}$"},
    "email": {"type": "string", "pattern": "^[a-z]{1,9}@[a-z]{1,9}$"},
    "id": IDENTITIES,
    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    "name": {"type": "string", "pattern": "^[a-z][a-z ]{0,20}$"},
    "order_id": IDENTITIES,
    "payment_token": {"enum": ["tok_visa", "tok_declined", "tok_uncertain"]},
    "price_cents": {"type": "integer", "minimum": 1, "maximum": 10000},
    "quantity": {"type": "integer", "minimum": 1, "maximum": 3},
    "sku": SKUS,
    "user_id": {"enum": [KNOWN, "ada"]},
}


@pytest.fixture(scope="session")
def document(shop):
    return shop.get("/openapi.json")


def document_is_valid(document):
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def document_has_every_route_and_no_other(document, config):
    routes = tomllib.loads(config.read_text())["http"]["routes"]
    told = {
        f"{method.upper()} {path}": operation["responses"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert told.keys() == routes.keys()
    for name, route in routes.items():
        if isinstance(route, dict):
            cases = [*route.get("when", {}).values(), route.get("errors", {})]
            configured = [route.get("status", 200), *(status for case in cases for status in case.values())]
            assert {str(status) for status in configured} <= told[name].keys(), name


def shop_keeps_to_its_document_whatever_it_is_sent(own_shop, tmp_path):
    _test(own_shop.origin + "/openapi.json", tmp_path, "--phases", "examples,coverage,fuzzing", checks=[*CHECKS, "negative_data_rejection"])


def shop_keeps_to_its_document_when_it_takes_the_request(own_shop, document, tmp_path):
    """Most of what fits the types is refused by the modules' rules; here, what is sent keeps to these too."""
    own_shop.ask("POST", "/api/users", {"id": KNOWN, "name": "Ada", "email": "ada@example.org"})
    order = {"id": KNOWN, "user_id": KNOWN, "lines": [{"sku": "mug", "quantity": 1}], "payment_token": "tok_visa"}
    assert own_shop.ask("POST", "/api/orders", order)[0] == 201
    shops.eventually(
        lambda: own_shop.ask("GET", f"/api/orders/{KNOWN}/shipment")[0] == 200, 20, "the known order has its shipment"
    )
    file = tmp_path / "taken.json"
    file.write_text(json.dumps(_taken(document)))
    report = _test(file, tmp_path, "--url", own_shop.origin, "--phases", "fuzzing", "--mode", "positive", checks=CHECKS)
    answered = {name: rates["fuzzing"]["accepted"] for name, rates in report["valid_rates"].items()}
    assert len(answered) == report["operations"]["total"]
    assert [name for name, accepted in answered.items() if accepted == 0] == [], "never accepted"


def _test(schema, folder, *options, checks):
    """Runs Schemathesis. Gives its report if nothing was found."""
    file = folder / "report.json"
    done = subprocess.run(
        [
            TESTER, "run", str(schema), "--no-color", "--seed", str(SEED), "--max-examples", str(EXAMPLES),
            "--checks", ",".join(checks), "--continue-on-failure", "--request-timeout", "20",
            "--generation-database", "none", "--report-json-path", str(file), *options,
        ],
        cwd=folder, capture_output=True, text=True, timeout=TIME_S,
    )
    print(f"seed {SEED}, {EXAMPLES} examples for each operation")
    print(done.stdout[-20_000:], done.stderr[-4_000:])
    assert done.returncode == 0
    report = json.loads(file.read_text())
    assert report["operations"]["tested"] == report["operations"]["total"] > 0
    return report


def _taken(document):
    """The document, with the requests narrowed to `TAKEN`. The answers are as they were."""
    narrow = copy.deepcopy(document)
    for item in narrow["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                parameter["schema"] = TAKEN.get(parameter["name"], parameter["schema"])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _narrow_body(content["schema"], narrow)
    return narrow


def _narrow_body(schema, document):
    """Follows what a body is made of. Types of requests are no types of answers, so they are narrowed where they stand."""
    if "$ref" in schema:
        name = re.fullmatch(r"#/components/schemas/(.+)", schema["$ref"])[1]
        _narrow_body(document["components"]["schemas"][name], document)
    for name, field in schema.get("properties", {}).items():
        # What is made has an identity of its own: one that stands would be refused.
        schema["properties"][name] = {"type": "string", "pattern": f"^{UUID}$"} if name == "id" else TAKEN.get(name, field)
        if field.get("type") == "array":
            field.update(minItems=1, maxItems=2)
            _narrow_body(field["items"], document)
