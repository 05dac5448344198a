"""What is secret stays out of every log, at its most talkative, and out of every refusal."""

import asyncio
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from floor import Floor, made
from quartet import devstores
from quartet.kernel.settings import Settings

START_SECONDS = 60


async def test_nothing_secret_is_logged_or_told(floor: Floor, settings: Settings, tmp_path: Path) -> None:
    """A process of the shop's own, over HTTP, at level debug: requests that go well, that are refused, and that meet
    stores which are away. Each secret is planted, and looked for afterwards in all that it wrote and answered."""
    planted: dict[str, str] = {
        "secret": "planted-signing-secret-0123456789abcdef",
        "retired secret": "planted-retired-secret-0123456789abcdef",
        "webhook secret": "planted-webhook-secret-0123456789", "password": "planted-Password-battery-1",
        "new password": "planted-Password-battery-2", "wrong password": "planted-Wrong-Password-3",
        "idempotency key": "planted-idempotency-key-4", "order token": "planted-order-token-5",
        "reset token": "planted-reset-token-6", "verification token": "planted-verification-token-7",
        "bad bearer": "planted.bearer.token8", "bad key": "qk_plantedPlantedPlantedPlanted9",
        "bad cookie": "planted-cookie-10", "csrf": "planted-csrf-11", "basic": "cGxhbnRlZC1iYXNpYzpwYXNz",
        "refresh token": "planted-refresh-token-12", "cart token": "planted-cart-token-13",
        "signature": "planted-sig-14",
    }  # fmt: skip
    log = tmp_path / "log"
    async with _process(settings, planted, log, {}) as address:
        told = await _walk(address, planted)
        told += await _admin_walk(address, floor, planted, settings)
    away = {
        "QUARTET_REDIS_URL": "redis://:planted-redis-password@127.0.0.1:1/0",
        "QUARTET_POSTGRES_URL": "postgresql://someone:planted-postgres-password@127.0.0.1:1/none",
        "QUARTET_SEARCH_URL": "http://someone:planted-search-password@127.0.0.1:1",
    }
    planted |= {f"{url} password": value.split(":")[2].partition("@")[0] for url, value in away.items()}
    async with _process(settings, planted, log, away) as address:
        told += await _walk(address, planted)
    written = log.read_text()
    assert written.count('"event":"request"') > 80, written[-2000:]
    found = {name for name, secret in planted.items() if secret in written}
    assert not found, [line for line in written.splitlines() for name in found if planted[name] in line][:5]
    for answer in told:
        for name, secret in planted.items():
            assert not (answer.is_error and secret in answer.text), (name, answer.text)


async def test_a_worker_that_reaches_nobody_logs_nothing_secret(
    floor: Floor, settings: Settings, tmp_path: Path
) -> None:
    """E-mails with links that open accounts, webhooks that are signed, payments to be asked after: the mail server, the
    endpoint and the providers are all away."""
    planted = {
        "secret": settings.secret.get_secret_value(), "retired secret": "planted-retired-secret-0123456789abcdef",
        "webhook secret": "planted-webhook-secret-0123456789", "stripe key": "sk_test_plantedPlantedPlanted1",
        "stripe webhook secret": "whsec_plantedPlantedPlantedPlanted2", "paypal secret": "planted-paypal-secret-3",
    }  # fmt: skip
    other = {
        "QUARTET_PAYMENT_PROVIDERS": '["stripe", "paypal"]', "QUARTET_STRIPE_SECRET_KEY": planted["stripe key"],
        "QUARTET_STRIPE_WEBHOOK_SECRETS": json.dumps([planted["stripe webhook secret"]]),
        "QUARTET_PAYPAL_CLIENT_ID": "app", "QUARTET_PAYPAL_CLIENT_SECRET": planted["paypal secret"],
        "QUARTET_PAYPAL_WEBHOOK_ID": "hook", "QUARTET_STRIPE_API_URL": "http://127.0.0.1:1",
        "QUARTET_PAYPAL_API_URL": "http://127.0.0.1:1", "QUARTET_WEBHOOK_LOOPBACK": "true",
    }  # fmt: skip
    nobody = f"http://127.0.0.1:{devstores.free_port()}/"
    floor.app.state.shop = replace(floor.shop, settings=settings.model_copy(update={"webhook_loopback": True}))
    endpoint = await made(floor.staff.post("/webhook-endpoints", json={"url": nobody, "events": ["*"]}))
    planted["endpoint's secret"] = endpoint["secret"]
    await made(floor.guest.post("/users", json={"email": "ada@example.com", "password": "correct horse battery"}))
    await made(floor.guest.post("/password-resets", json={"email": "ada@example.com"}))
    for provider in ("stripe", "paypal"):
        paid = await floor.payment()
        async with floor.shop.stores.pg.once() as tx:
            open_ = "UPDATE payments SET status = 'pending', provider = $2, ask_at = now() WHERE id = $1"
            await tx.execute(open_, UUID(paid["id"]), provider)
    log = tmp_path / "log"
    async with _process(settings, planted, log, other, "worker"), asyncio.timeout(START_SECONDS):
        for word in ('"kind":"reset"', '"kind":"verify"', "webhook not taken", "Stripe can", "PayPal lets"):
            while word not in log.read_text():  # noqa: ASYNC110 — until it has tried everything
                await asyncio.sleep(0.1)
    written = log.read_text()
    assert not {name for name, secret in planted.items() if secret in written}, written
    # Links are drawn when their e-mail is written, and end in as many characters.
    assert not re.search(r"(?<![\w-])[\w-]{43}(?![\w-])", written), written


class _process:  # noqa: N801 — reads as what it opens
    """A command of the shop's at level debug; all that it writes goes into the file."""

    def __init__(
        self, settings: Settings, planted: dict[str, str], log: Path, other: dict[str, str], command: str = "serve"
    ) -> None:
        self.port, self.log, self.command = devstores.free_port(), log, command
        stores = {f"QUARTET_{name.upper()}": str(getattr(settings, name)) for name in _URLS}
        self.env = {
            **os.environ, **stores, **other,
            "QUARTET_SEARCH_ALIAS": settings.search_alias, "QUARTET_DATA_DIR": str(settings.data_dir),
            "QUARTET_SECRET": planted["secret"], "QUARTET_SECRETS_RETIRED": json.dumps([planted["retired secret"]]),
            "QUARTET_SANDBOX_WEBHOOK_SECRET": planted["webhook secret"], "QUARTET_LOG_LEVEL": "debug",
            "QUARTET_MAIL_URL": "smtp://shop:planted-mail-password@127.0.0.1:1", "PYTHONASYNCIODEBUG": "1",
        }  # fmt: skip
        planted["mail password"] = "planted-mail-password"

    async def __aenter__(self) -> str:
        with self.log.open("ab") as file:
            port = ("--port", str(self.port)) if self.command == "serve" else ()
            words = (sys.executable, "-m", "quartet.cli", self.command, *port)
            self.child = await asyncio.create_subprocess_exec(*words, env=self.env, stdout=file, stderr=file)
        address = f"http://127.0.0.1:{self.port}"
        if not port:
            return address
        async with httpx.AsyncClient(base_url=address) as client, asyncio.timeout(START_SECONDS):
            while True:
                try:
                    await client.get("/health/live")
                    return address
                except httpx.TransportError:
                    await asyncio.sleep(0.1)

    async def __aexit__(self, *_: object) -> None:
        self.child.terminate()
        await self.child.wait()


_URLS = ("postgres_url", "mongodb_url", "redis_url", "search_url")


async def _walk(address: str, planted: dict[str, str]) -> list[httpx.Response]:
    """A stranger, and a person from sign-up to sign-out; every call is made whatever became of the one before."""
    told: list[httpx.Response] = []
    person = {"email": "planted@example.com", "password": planted["password"]}
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:

        async def ask(method: str, path: str, body: Any = None, **headers: Any) -> httpx.Response:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            told.append(await client.request(method, path, json=body, headers=sent))
            return told[-1]

        await ask("POST", "/users", person)
        await ask("POST", "/users", person)
        await ask("POST", "/users", person | {"extra": planted["password"]})
        await ask("POST", "/users", {"email": planted["password"], "password": planted["password"]})
        await ask("POST", "/sessions", person | {"password": planted["wrong password"]})
        await ask("POST", "/sessions", person | {"password": [planted["wrong password"]]})
        signed = (await ask("POST", "/sessions", person)).json()
        for name in ("accessToken", "refreshToken"):
            if name in signed:
                planted[f"{name} {address}"] = signed[name]
        bearer = {"Authorization": f"Bearer {signed.get('accessToken', planted['bad bearer'])}"}
        key = {"Idempotency_Key": planted["idempotency key"]}
        await ask("POST", "/orders", {"items": [{"sku": "NO-SUCH", "qty": 1}]}, **bearer, **key)
        await ask("POST", "/orders", {"items": [{"sku": "OTHER", "qty": 1}]}, **bearer, **key)
        await ask(
            "POST", "/orders", {"items": [{"sku": "X", "qty": 1}]}, Idempotency_Key=planted["idempotency key"] * 20
        )
        await ask("GET", "/orders/0197a0a0-0000-7000-8000-000000000000", X_Order_Token=planted["order token"])
        await ask("GET", "/cart", X_Cart_Token=planted["cart token"])
        for path in ("/users/me", "/orders", "/products", "/inventory", "/search?q=x", "/nowhere"):
            await ask("GET", path, **bearer)
            await ask("GET", path, Authorization=f"Bearer {planted['bad bearer']}")
            await ask("GET", path, Authorization=f"Bearer {planted['bad key']}")
            await ask("GET", path, Authorization=f"Basic {planted['basic']}")
            await ask("GET", path, Cookie=f"quartet_session={planted['bad cookie']}")
        await ask("POST", "/sessions/refresh", {"refreshToken": planted["refresh token"]})
        await ask("POST", f"/password-resets/{planted['reset token']}", {"password": planted["new password"]})
        await ask("POST", f"/password-resets/{planted['reset token']}", {"password": 1})
        await ask("PUT", f"/password-resets/{planted['reset token']}")
        await ask("POST", f"/email-verifications/{planted['verification token']}", {})
        await ask("POST", "/password-resets", {"email": person["email"]})
        await ask("POST", "/webhooks/sandbox", {"id": "x"}, Sandbox_Signature=f"t=1,v1={planted['signature']}")
        change = {"currentPassword": planted["wrong password"], "newPassword": planted["new password"]}
        await ask("POST", "/users/me/password", change, **bearer)
        await ask("POST", "/users/me/password", change | {"currentPassword": planted["password"]}, **bearer)
        client.cookies.clear()
        page = await ask("POST", "/sessions", person | {"password": planted["new password"], "cookie": True})
        if page.is_success:
            planted[f"page {address}"] = client.cookies["quartet_session"]
            planted[f"csrf {address}"] = page.json()["csrfToken"]
        await ask("PATCH", "/users/me", {"displayName": "X"}, X_CSRF_Token=planted["csrf"], Origin=address)
        await ask("PATCH", "/users/me", {"displayName": "X"}, X_CSRF_Token=client.cookies.get("quartet_csrf", "x"),
                  Origin="http://127.0.0.1:8000")  # fmt: skip
        await ask("GET", "/users/me")
        client.cookies.clear()
        await ask("DELETE", "/sessions/current", **bearer)
    return told


async def _admin_walk(address: str, floor: Floor, planted: dict[str, str], settings: Settings) -> list[httpx.Response]:
    """Making and using an API key, of an admin of the same shop."""
    person = {"email": "keeper@example.com", "password": planted["password"]}
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        user = await made(client.post("/users", json=person))
        await made(floor.admin.patch(f"/users/{user['id']}/roles", json={"roles": ["admin"]}))
        token = (await made(client.post("/sessions", json=person)))["accessToken"]
        planted["admin token"] = token
        bearer = {"Authorization": f"Bearer {token}"}
        key = await made(client.post("/api-keys", json={"name": "x", "scopes": ["orders:read"]}, headers=bearer))
        planted["api key"] = key["key"]
        sent = {"Authorization": f"Bearer {key['key']}"}
        return [await client.get(path, headers=sent) for path in ("/orders", "/inventory", "/cart", "/nowhere")]
