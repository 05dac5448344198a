"""What lies in deploy/ names settings that there are, and URLs that the shop understands."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from quartet.kernel.settings import Settings
from quartet.stores.cluster import is_cluster
from quartet.stores.search import nodes_of

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(DEPLOY.rglob("*.yaml"))


def _texts(node: Any) -> Iterator[str]:
    """Every key and value of a document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
    else:
        yield str(node)


def test_every_setting_named_is_one() -> None:
    known = {f"QUARTET_{name.upper()}" for name in Settings.model_fields}
    for file in [*FILES, DEPLOY / "Dockerfile"]:
        assert set(re.findall(r"QUARTET_\w+", file.read_text())) <= known, file


def test_every_store_is_several_servers_and_every_server_named_is_there() -> None:
    cluster = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    services, said = cluster["services"], cluster["x-quartet"]["environment"]
    hosts = {
        store: re.findall(r"(?<=[/,])[a-z]+(?:-\w+)*(?=[:/,])", re.sub("//.*@", "//", said[f"QUARTET_{store}_URL"]))
        for store in ("POSTGRES", "POSTGRES_REPLICA", "MONGODB", "REDIS", "SEARCH")
    }
    assert {store: len(found) for store, found in hosts.items()} == {
        "POSTGRES": 1, "POSTGRES_REPLICA": 1, "MONGODB": 3, "REDIS": 3, "SEARCH": 3
    }  # fmt: skip
    assert {host for found in hosts.values() for host in found} <= services.keys()
    assert is_cluster(said["QUARTET_REDIS_URL"])
    assert nodes_of(said["QUARTET_SEARCH_URL"]) == [f"http://search-{n}:9200" for n in range(3)]
    assert all(services[name]["deploy"]["replicas"] > 1 for name in ("api", "worker"))
    assert {name for service in services.values() for name in service.get("depends_on", [])} <= services.keys()


def test_the_manifests_belong_together() -> None:
    documents = [each for file in FILES if file.parent.name == "kubernetes" for each in yaml.safe_load_all(file.open())]
    labels = {d["metadata"]["name"]: d for d in documents if d["kind"] in ("StatefulSet", "Deployment")}
    assert labels.keys() == {
        "quartet-api", "quartet-worker", "postgres", "postgres-replica", "mongodb", "redis", "search"
    }  # fmt: skip
    for document in documents:
        assert document["metadata"]["namespace"] == "quartet"
        if document["kind"] in ("Service", "PodDisruptionBudget"):
            selector = document["spec"]["selector"]
            app = selector.get("app") or selector["matchLabels"]["app"]
            assert app in labels
    stateful = {name: d["spec"]["replicas"] for name, d in labels.items()}
    assert (stateful["mongodb"], stateful["redis"], stateful["search"]) == (3, 6, 3)
    assert "quartet" in set(_texts(documents))
