"""As much of W&B's server as `wandb.Api` and a run ask of it, on loopback."""

import contextlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from recipe.config import from_yaml
from record.run import read_environment, read_rows, read_summary
from record.schema import strict_json
from record.tracking import named


def mirrored(folder: Path) -> dict[str, Any]:
    """What W&B keeps of a run: config, summary and history, as a run logs them."""
    summary = read_summary(folder)
    details = {
        **asdict(from_yaml((folder / "config.yaml").read_text())),
        "framework": summary["framework"],
        "world_size": summary["world_size"],
        "environment": read_environment(folder),
    }
    history = [
        {"_step": number, "step": row["step"], **named(row)}
        for number, row in enumerate(read_rows(folder))
    ]
    return {
        "config": {key: {"value": value} for key, value in details.items()},
        "summary": {**summary, "train/loss": 0.5, "_runtime": 3.0},
        "history": history,
    }


def running(run: dict[str, Any]) -> dict[str, Any]:
    """What W&B has of a run before its end."""
    logged = {k: run["summary"][k] for k in ("train/loss", "_runtime")}
    history = run["history"][:2]
    return run | {"state": "running", "summary": logged, "history": history}


@contextlib.contextmanager
def fresh_wandb(home: Path, **variables: str):
    """W&B as on a new machine: no key but those given, no server but on loopback."""
    import wandb

    home.mkdir(exist_ok=True)
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("WANDB_", "NETRC"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
        patch.setenv("no_proxy", "127.0.0.1")
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            wandb.teardown()


@contextlib.contextmanager
def serving(projects: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The URL of a server of these projects of the entity e: id -> `mirrored` run."""

    def data(path: str, asked: dict[str, Any]) -> Any:
        query = asked.get("query", "")  # none is in wandb-core's own statistics
        found = answer(query, asked.get("variables") or {}, projects)
        return {"data": strict_json(found)}

    with listening(data) as url:
        yield url


@contextlib.contextmanager
def receiving() -> Iterator[tuple[str, dict[int, Any]]]:
    """The URL of a server that takes one run in, and its history, by line."""
    history: dict[int, Any] = {}
    known: set[str] = set()

    def data(path: str, asked: dict[str, Any]) -> Any:
        files, query = asked.get("files") or {}, asked.get("query", "")
        if "wandb-history.jsonl" in files:
            sent = files["wandb-history.jsonl"]
            rows = map(json.loads, sent["content"])
            history.update(enumerate(rows, start=sent["offset"]))
        if "file_stream" in path:
            return {}
        variables = asked.get("variables") or {}
        last = json.dumps(history[max(history)]) if history else "{}"
        project = {"id": "p", "name": "duet", "entity": {"id": "e", "name": "e"}}
        run = {
            **{"id": "r", "name": variables.get("name"), "displayName": "run"},
            **{"project": project, "config": "{}", "wandbConfig": '{"t": 1}'},
            **{"historyLineCount": len(history), "historyTail": json.dumps([last])},
            **{"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"},
            "summaryMetrics": last,
        }
        if "upsertBucket" in query:
            known.add("r")
            return {"data": {"upsertBucket": {"bucket": run, "inserted": False}}}
        if "RunResumeStatus" in query:
            return {"data": {"model": {**project, "bucket": run if known else None}}}
        if "createRunFiles" in query:
            files = {"runID": "r", "uploadHeaders": [], "files": []}
            return {"data": {"createRunFiles": files}}
        return {"data": answer(query, variables, {})}

    with listening(data) as url:
        yield url, history


@contextlib.contextmanager
def listening(data: Callable[[str, dict[str, Any]], Any]) -> Iterator[str]:
    """The URL of a server that answers JSON with JSON: `data(path, asked)`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                asked = json.loads(body)
            except ValueError:  # compressed
                asked = {}
            text = json.dumps(data(self.path, asked)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def answer(
    query: str, asked: dict[str, Any], projects: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The `data` of GraphQL's answer."""
    runs = projects.get(asked.get("project") or "", {})
    if "viewer" in query:
        return {"viewer": {"id": "1", "entity": "e", "username": "u", "flags": "{}"}}
    if "query Runs(" in query:
        if asked["project"] not in projects:
            return {"project": None}
        nodes = [node(name, run) for name, run in runs.items()]
        edges = [{"node": found, "cursor": found["name"]} for found in nodes]
        pages = {"endCursor": None, "hasNextPage": False}
        listed = {"edges": edges, "pageInfo": pages}
        project = {"internalId": "1", "runCount": len(runs), "readOnly": True}
        return {"project": {**project, "runs": listed}}
    name = asked.get("run") or asked.get("name") or ""
    history = runs.get(name, {}).get("history", [])
    if "historyKeys" in query:
        keys = {"lastStep": len(history) - 1, "keys": {}}
        return {"project": {"run": {"historyKeys": keys}}}
    if "parquetHistory" in query:
        live = {"parquetUrls": [], "liveData": [{"_step": 0}]}  # none is archived
        return {"project": {"run": {"parquetHistory": live}}}
    if "history(" in query:
        rows = history[asked["minStep"] : asked["maxStep"]]
        lines = [json.dumps(strict_json(row)) for row in rows]
        return {"project": {"run": {"history": lines}}}
    return {}


def node(name: str, run: dict[str, Any]) -> dict[str, Any]:
    return {
        **dict.fromkeys(("sweepName", "group", "commit", "notes", "historyKeys")),
        "projectId": "1",
        "id": name,
        "name": name,
        "displayName": f"shown as {name}",
        "tags": [],
        "state": run.get("state", "finished"),
        "jobType": "train",
        "config": json.dumps(run["config"]),
        "summaryMetrics": json.dumps(strict_json(run["summary"])),
        "systemMetrics": "{}",
        "readOnly": True,
        "createdAt": "2026-01-01T00:00:00",
        "heartbeatAt": "2026-01-01T00:00:00",
        "description": "",
        "historyLineCount": len(run["history"]),
        "user": {"name": "u", "username": "u"},
    }
