"""A small HTTP server that answers AllenSDK's queries from a folder of sessions, and serves its files."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

#: Rows a page may have, fewer than there are, so that AllenSDK must ask again.
PAGE = 20


@dataclass
class Warehouse:
    """The folder served, what was asked, and faults to come."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    #: Cut the next answers with a file after so many bytes.
    cuts: list[int] = field(default_factory=list)
    #: Answer queries with this text and status 503.
    broken: str = ""
    url: str = ""

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return the rows that a query asks for."""
        model = re.search(r"model::(\w+)", query)
        name = model.group(1) if model else ""
        if name == "WellKnownFile":
            return self._files(query)
        if name == "EcephysUnitMetricBundle":
            return self._metrics(query)
        if name == "EcephysSession":
            return [_session(row) for row in self._table("sessions")]
        tables = {"EcephysProbe": "probes", "EcephysChannel": "channels", "EcephysUnit": "units"}
        rows = self._table(tables[name])
        if name == "EcephysProbe":
            for row in rows:
                row["use_lfp_data"] = row.pop("has_lfp_data")
        return rows

    def file(self, path: str) -> Path:
        """Return the file behind a download link."""
        return self.folder / path.split("well_known_file_download/", 1)[1]

    def _table(self, name: str) -> list[dict[str, Any]]:
        with (self.folder / f"{name}.csv").open(newline="") as file:
            return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]

    def _metrics(self, query: str) -> list[dict[str, Any]]:
        found = re.search(r"ecephys_session\[id\$in\s*(\d+)", query)
        session = int(found.group(1)) if found else 0
        path = self.folder / f"session_{session}" / f"session_{session}_analysis_metrics.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            {
                "id": number,
                "ecephys_unit_id": int(row.pop("ecephys_unit_id")),
                "data": json.dumps({key: _value(text) for key, text in row.items()}),
            }
            for number, row in enumerate(rows)
        ]

    def _files(self, query: str) -> list[dict[str, Any]]:
        if "'Stimulus'" in query:
            paths = sorted((self.folder / "natural_scene_templates").glob("*.tiff"))
            scenes = [
                _link(f"natural_scene_templates/{path.name}", f"/x/{path.stem.split('_')[-1]}.tiff")
                for path in paths
            ]
            movies = [_link(f"movies/{number}", f"/x/natural_movie_{number}.npy") for number in (1, 3)]
            return [*scenes, *movies]
        found = re.search(r"attachable_id\$eq(\d+)", query)
        session = int(found.group(1)) if found else 0
        return [_link(f"session_{session}/session_{session}.nwb", "/x.nwb")]


class OphysWarehouse(Warehouse):
    """The same for a folder of imaging experiments, whose tables are JSON."""

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return the rows that a query asks for."""
        tables = {"OphysExperiment": "ophys_experiments", "ApiCamCellMetric": "cell_specimens"}
        model = re.search(r"model::(\w+)", query)
        rows: list[dict[str, Any]] = json.loads(
            (self.folder / f"{tables[model.group(1) if model else '']}.json").read_text()
        )
        return rows


@contextlib.contextmanager
def running(folder: Path, kind: type[Warehouse] = Warehouse) -> Iterator[Warehouse]:
    """Serve a folder for the length of the block."""
    warehouse = kind(folder)
    handler = type("Handler", (_Handler,), {"warehouse": warehouse})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    warehouse.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield warehouse
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    warehouse: Warehouse

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer_file(send=False)

    def do_GET(self) -> None:
        asked = unquote(self.path)
        self.warehouse.asked.append(asked)
        if "query.json" not in asked:
            self._answer_file(send=True)
            return
        if self.warehouse.broken:
            self._send(503, self.warehouse.broken.encode(), {"Content-Type": "text/html"})
            return
        rows = self.warehouse.rows(asked)
        found = re.search(r"start_row\$eq(\d+)", asked)
        start = int(found.group(1)) if found else 0
        part = rows[start : start + PAGE]
        body = {"success": True, "num_rows": len(part), "total_rows": len(rows), "msg": part}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _answer_file(self, *, send: bool) -> None:
        body = self.warehouse.file(self.path).read_bytes()
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status = 200
        if wanted:
            status, first = 206, int(wanted.group(1))
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            body = body[first:]
        cut = self.warehouse.cuts.pop(0) if send and self.warehouse.cuts else None
        self._send(status, body, headers, send=send, cut=cut)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, send: bool = True, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _session(row: dict[str, Any]) -> dict[str, Any]:
    donor = {"age": {"days": row["age_in_days"]}, "sex": row["sex"], "full_genotype": row["genotype"]}
    return {
        "id": row["id"],
        "published_at": row["published_at"],
        "specimen_id": row["specimen_id"],
        "stimulus_name": row["session_type"],
        "fail_eye_tracking": False,
        "specimen": {"donor": donor},
        "well_known_files": [{"well_known_file_type": {"name": "EcephysNwb"}}],
    }


def _link(place: str, path: str) -> dict[str, Any]:
    return {"id": 1, "path": path, "download_link": f"/api/v2/well_known_file_download/{place}"}


def _value(text: str) -> Any:
    if text in ("", "nan"):
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False}.get(text, text)
