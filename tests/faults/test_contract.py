"""Whatever is sent to any route by anybody, the OpenAPI document has said what may come back, and it is no fault of
the shop's own. schemathesis makes the requests from the document itself, so a new route is held to this by being there.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from furnished import Furnished, furnish, new_token
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from quartet.cli import open_shop
from quartet.gateway import create_app
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop

SEED = int(os.environ.get("QUARTET_TEST_SEED", "20260131"))
EXAMPLES = int(os.environ.get("QUARTET_CONTRACT_EXAMPLES", "8"))
ROLES: dict[str, tuple[str, ...]] = {"guest": (), "shopper": (), "staff": ("staff",), "admin": ("admin",)}


def no_fault_of_ours(_ctx: Any, response: Any, _case: Any) -> None:
    """schemathesis' own check would also forbid the 502 that tells of a payment provider's failure."""
    assert response.status_code < 500 or response.status_code == 502, f"{response.status_code}: {response.text}"


def refusals_say_what_is_wrong(_ctx: Any, response: Any, _case: Any) -> None:
    """A refusal names its request and, where values are not valid, each field."""
    if response.status_code < 400 or response.headers["content-type"] == ["application/json"]:
        return
    problem = response.json()
    if "idempotent-replayed" not in response.headers:  # which is the first answer, byte for byte
        assert [problem["instance"]] == response.headers["x-request-id"], problem
    assert problem["status"] == response.status_code, problem
    if problem["type"] == "/problems/invalid":
        assert problem["errors"], problem
        assert all(error["field"] and error["message"] for error in problem["errors"]), problem


CHECKS = [
    no_fault_of_ours,
    refusals_say_what_is_wrong,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No limits and no waiting: this is about answers."""
    kinds = ("browse", "search", "write", "auth", "pay", "sign_in_failures", "address_failures")
    unlimited = {f"limit_{kind}": 10**9 for kind in kinds}
    return settings.model_copy(update=unlimited | {"sandbox_slow_seconds": 0.0, "sandbox_async_seconds": 3600.0})


@pytest.mark.timeout(600)
async def test_every_answer_is_one_that_the_document_promises(
    shop: Shop, settings: Settings, staff: httpx.AsyncClient, shopper: httpx.AsyncClient
) -> None:
    print(f"seed {SEED}, {EXAMPLES} examples a route for each of {', '.join(ROLES)} (QUARTET_TEST_SEED)")
    furnished = await furnish(staff, shopper)
    async with shop.stores.pg.tx() as tx:  # else whoever asks to be forgotten is, and no other route has a user
        await tx.execute("UPDATE users SET password_hash = 'that of nobody'")
    loop = asyncio.get_running_loop()
    ids = {"shopper": shopper.user_id, "staff": staff.user_id, "admin": staff.user_id}  # type: ignore[attr-defined]

    def headers(role: str) -> dict[str, str]:
        if role == "guest":
            return {}
        token = asyncio.run_coroutine_threadsafe(new_token(shop, ids[role], *ROLES[role]), loop).result(30)
        return {"Authorization": f"Bearer {token}"}

    faults = await asyncio.to_thread(_hold_every_route, settings, furnished, headers)
    assert not faults, f"{len(faults)} routes break their promise:\n\n" + "\n\n".join(faults)


def _hold_every_route(settings: Settings, furnished: Furnished, headers: Callable[[str], dict[str, str]]) -> list[str]:
    """Runs in a thread, since schemathesis drives the application in a loop of its own, with stores of its own."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(lambda: open_shop(settings)))
    faults = []
    succeeded = Counter[str]()
    try:
        found = list(schema.get_all_operations())
        operations = [each.ok() for each in found if isinstance(each, Ok)]
        assert len(operations) == len(found) > 60
        for operation in sorted(operations, key=lambda o: o.method == "delete"):  # while there is something to find
            try:
                _hold(operation, furnished, {role: headers(role) for role in ROLES}, succeeded)
            except Exception as fault:
                faults.append(f"{operation.label}: {fault}")
    finally:
        asgi.shutdown_lifespans()
    print(f"{len(operations)} routes, answers that said yes: {dict(succeeded)}")
    assert all(succeeded[role] > 0 for role in ROLES)
    return faults


def _hold(operation: Any, furnished: Furnished, headers: dict[str, dict[str, str]], succeeded: Counter[str]) -> None:
    """Counts by role who was told yes."""
    modes = list(GenerationMode) if operation.body or any(operation.iter_parameters()) else [GenerationMode.POSITIVE]

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(*(operation.as_strategy(mode) for mode in modes)), st.data())
    def one(case: Any, data: Any) -> None:
        _aim(case, furnished, data)
        for role, sent in headers.items():
            try:
                answer = case.call_and_validate(headers=sent, checks=CHECKS)
                succeeded[role] += answer.status_code < 300
            except FailureGroup as group:
                raise AssertionError(f"as {role}: {group}") from None

    one()


def _aim(case: Any, furnished: Furnished, data: Any) -> None:
    """Half of the requests name what there is: drawn names alone would hardly ever come past 404."""
    for name in list(case.path_parameters or {}):
        known = furnished.known_at(case.operation.path, name)
        if known and data.draw(st.booleans()):
            case.path_parameters[name] = data.draw(st.sampled_from(known))
    if isinstance(case.body, dict):
        body = case.body
        items = body.get("items")
        lines = [line for line in items if isinstance(line, dict)] if isinstance(items, list) else []
        for holder in (body, *lines):
            if isinstance(holder.get("sku"), str) and data.draw(st.booleans()):
                holder["sku"] = data.draw(st.sampled_from(furnished.known["sku"]))
        if isinstance(body.get("orderId"), str) and data.draw(st.booleans()):
            body["orderId"] = furnished.pending_order
        if "provider" in body and data.draw(st.booleans()):
            body |= {"provider": "sandbox", "paymentMethod": data.draw(st.sampled_from(["card_ok", "card_error"]))}
