"""README's commands, run as they are written, against a shop that really serves."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest
import uvicorn
from fastapi import FastAPI

from quartet import sync
from quartet.demo import seed
from quartet.devstores import free_port
from quartet.gateway import ROOMS
from quartet.kernel.settings import Settings
from quartet.web.dependencies import Shop

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUARTET = Path(sys.executable).with_name("quartet")


@pytest.fixture
async def address(app: FastAPI, shop: Shop) -> AsyncIterator[str]:
    """Where the demo shop answers, its worker at work."""
    await seed(shop)
    await sync.catch_up(shop)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    stop = asyncio.Event()
    working = asyncio.create_task(sync.run_worker(shop, stop))
    while not server.started:  # noqa: ASYNC110 — uvicorn tells it by a flag
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    stop.set()
    await asyncio.gather(serving, working)


def _environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "QUARTET_POSTGRES_URL": str(settings.postgres_url),
        "QUARTET_MONGODB_URL": str(settings.mongodb_url),
        "QUARTET_REDIS_URL": str(settings.redis_url),
        "QUARTET_SEARCH_URL": str(settings.search_url),
        "QUARTET_SEARCH_ALIAS": settings.search_alias,
        "QUARTET_SECRET": settings.secret.get_secret_value(),
        "QUARTET_DATA_DIR": str(settings.data_dir),
    }


async def _run(*command: str | Path, shop: Shop) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_environment(shop.settings),
        cwd=shop.settings.data_dir,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_walk_and_the_commands_after_it(address: str, shop: Shop) -> None:
    walk = re.search(r"<!-- walk -->\n```sh\n(.*?)```", README, re.S)
    assert walk is not None
    script = walk.group(1).replace("http://127.0.0.1:8000", address)
    status, said = await _run("bash", "-euo", "pipefail", "-c", script, shop=shop)
    assert status == 0, said
    assert "ThinkPad" in said
    assert re.search(r"x-cache: (hit|miss)", said, re.I)
    payments = re.findall(r'"id":"([0-9a-f-]{36})","orderId"', said)
    assert len(payments) == 2, said
    assert payments[0] == payments[1]
    assert "\nconfirmed\n" in said
    assert '"sku": "LAPTOP-001",' in said
    assert "shortages" in said

    for command in ("tour", "replay --baskets 3 --buyers 2 --url", "check"):
        words = [*command.split(), address] if command.endswith("--url") else command.split()
        if command == "tour":
            words += ["--url", address]
        status, said = await _run(QUARTET, *words, shop=shop)
        assert status == 0, f"{command}: {said}"


def test_a_shop_in_parts_as_the_readme_has_it_is_whole() -> None:
    parts = [rooms.split(",") for rooms in re.findall(r"^quartet serve --rooms (\S+)", README, re.M)]
    assert sorted(room for part in parts for room in part) == sorted(ROOMS)


async def test_a_part_says_where_it_serves_what(shop: Shop) -> None:
    process = await asyncio.create_subprocess_exec(
        QUARTET, "serve", "--rooms", "search,catalog", "--port", "0",
        stderr=asyncio.subprocess.PIPE, env=_environment(shop.settings), cwd=shop.settings.data_dir,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = orjson.loads(await asyncio.wait_for(process.stderr.readline(), 60))
        assert (said["event"], said["rooms"]) == ("serving", ["search", "catalog"])
        async with httpx.AsyncClient(base_url=said["address"], trust_env=False, timeout=30) as part:
            assert (await part.get("/products")).status_code == 200
            assert (await part.get("/cart")).status_code == 404
    finally:
        process.terminate()
        await process.wait()
