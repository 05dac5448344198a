"""`python -m bench.flood host port crowd [apart]`: for each line on standard input (`email password`), makes `crowd`
concurrent sign-ins, each on its own connection; prints statuses and duration as a line of JSON.

A separate process, so that the measurements don't wait for it; it sends prepared bytes. `apart`: it runs with idle
priority, only when a core is free, as if the crowd were on another machine.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter

SECONDS = 60


async def main(host: str, port: int, crowd: int) -> None:
    """Runs until the end of standard input."""
    for line in iter(sys.stdin.readline, ""):
        email, password = line.split()
        body = json.dumps({"email": email, "password": password}).encode()
        head = f"POST /sessions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        began = time.perf_counter()
        statuses = Counter(await asyncio.gather(*(_sign_in(host, port, request) for _ in range(crowd))))
        sys.stdout.write(json.dumps({"statuses": statuses, "seconds": time.perf_counter() - began}) + "\n")
        sys.stdout.flush()


async def _sign_in(host: str, port: int, request: bytes) -> str:
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            answer = await reader.read()
            writer.close()
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    head, _, _ = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode() if head else "cut"
    return status if status != "429" or b"retry-after" in head.lower() else "429 without Retry-After"


if __name__ == "__main__":
    if sys.argv[4:] == ["apart"]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
