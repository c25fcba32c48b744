#!/usr/bin/env python3
"""Kills workers that fill a shared store, starts them again, and holds the store to one that nobody disturbed.

Two workers copy a cache of 2,000 records into a place: a folder, a server that speaks like S3 (localbucket), and the same server behind a
proxy that answers 500 before or after it did what it was asked, 409 to what it did not do, sends requests twice, closes connections, cuts
answers, with and without saying so, and waits. At random moments one of them is killed (SIGKILL) and started again, until both say that
every unit is there. Afterwards the store must be sound and, swept, hold the files of the undisturbed one, byte for byte.

usage: scripts/check/store_kills.py SENSEI [--kills N] [--minutes M] [--seed S] [--places folder,s3,hostile]
needs a sensei with object stores and `pip install localbucket==1.2.1`, unless --places folder
"""

import argparse
import collections
import hashlib
import http.client
import http.server
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from kills import make_split

N_IMAGES, RECORDS_PER_IMAGE, UNIT_RECORDS = 1000, 2, 20


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to `server.behind`, and does to some what networks and busy servers do."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def ask(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        answer = response.status, response.getheaders(), response.read()
        connection.close()
        return answer

    def answer(self, status, headers, body, cut=None):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = dict((name.lower(), value) for name, value in headers).get("content-length", len(body))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def handle_any(self):
        with self.server.lock:
            luck = self.server.rng.random()
            wait = self.server.rng.uniform(0, 0.2)
            self.server.n_requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        error = [("Content-Type", "application/xml")]
        creates = self.headers.get("If-None-Match") == "*"

        def strikes(name, low, high):
            if low <= luck < high:
                with self.server.lock:
                    self.server.strikes[name] += 1
                return True
            return False

        if strikes("500 before", 0.00, 0.03):
            return self.answer(500, error, b"<Error><Code>InternalError</Code></Error>")
        if creates and strikes("409", 0.03, 0.09):
            return self.answer(409, error, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        if strikes("waited", 0.09, 0.14):
            time.sleep(wait)
        if strikes("twice", 0.14, 0.19):
            self.ask(body)
        status, headers, found = self.ask(body)
        if strikes("500 after", 0.19, 0.23):
            return self.answer(500, error, b"<Error><Code>InternalError</Code></Error>")
        if strikes("closed", 0.23, 0.26):
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if self.command == "GET" and status == 200 and found:
            if strikes("cut", 0.26, 0.30):
                return self.answer(status, headers, found, cut=len(found) // 2)
            if "list-type" not in self.path and strikes("cut silently", 0.30, 0.34):
                return self.answer(status, headers, found[: len(found) // 2])
        return self.answer(status, headers, found)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True

    def handle_error(self, *_):
        """Workers that are killed leave broken connections."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def files_below(folder: pathlib.Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Place:
    """Where the workers work: its address by round, and its files."""

    def __init__(self, kind: str, root: pathlib.Path, rng: random.Random):
        self.kind, self.root, self.environment, self.proxy, self.process = kind, root, dict(os.environ), None, None
        if kind == "folder":
            return
        (root / "answers").mkdir(parents=True)
        port = free_port()
        command = [sys.executable, "-m", "localbucket", "--port", str(port), str(root)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("localbucket does not start")
                time.sleep(0.05)
        if kind == "hostile":
            self.proxy = Server(("127.0.0.1", 0), Proxy)
            self.proxy.behind, self.proxy.rng, self.proxy.lock = port, random.Random(rng.random()), threading.Lock()
            self.proxy.n_requests, self.proxy.strikes = 0, collections.Counter()
            threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
            port = self.proxy.server_address[1]
        self.environment.update(
            AWS_ENDPOINT=f"http://127.0.0.1:{port}",
            AWS_ALLOW_HTTP="true",
            AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="nobody",
            AWS_SECRET_ACCESS_KEY="nothing",
        )

    def address(self, name: str) -> str:
        return str(self.root / name) if self.kind == "folder" else f"s3://answers/{name}"

    def files(self, name: str) -> pathlib.Path:
        return self.root / name if self.kind == "folder" else self.root / "answers" / name

    def close(self):
        if self.proxy:
            self.proxy.shutdown()
        if self.process:
            self.process.terminate()
            self.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sensei", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=1000, help="over all places")
    parser.add_argument("--minutes", type=float, default=60.0, help="no round is begun after them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", default="folder,s3,hostile")
    arguments = parser.parse_args()
    sensei, rng, begin = arguments.sensei.resolve(), random.Random(arguments.seed), time.monotonic()
    faults, kinds = [], arguments.places.split(",")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "images").mkdir()
        make_split(root, "train", 1, N_IMAGES, rng)
        subprocess.run(
            [sensei, "teacher", "import", "dump/train", "train.json", "images", "cache"], cwd=root, check=True, capture_output=True
        )

        def command(*words: str) -> list:
            return [sensei, "teacher", *words]

        def done(*words: str, environment=None) -> subprocess.CompletedProcess:
            return subprocess.run(command(*words), cwd=root, capture_output=True, text=True, env=environment)

        start = time.monotonic()
        share = ["share", "cache", "undisturbed", "--unit-records", str(UNIT_RECORDS), "--worker", "one"]
        for words in [share, ["seal", "undisturbed"]]:
            result = done(*words)
            if result.returncode != 0:
                print(result.stdout, result.stderr)
                return 1
        expected = files_below(root / "undisturbed")
        n_units = sum("/units/" in name for name in expected)
        n_records = N_IMAGES * RECORDS_PER_IMAGE
        print(f"undisturbed: {n_records} records in {n_units} units, {time.monotonic() - start:.1f} s", flush=True)

        for nth, kind in enumerate(kinds):
            place = Place(kind, root / f"place-{kind}", rng)
            aim = arguments.kills // len(kinds) if nth < len(kinds) - 1 else arguments.kills - arguments.kills // len(kinds) * nth
            until = begin + 60 * arguments.minutes * (nth + 1) / len(kinds)
            n_kills, n_rounds, at_units, n_bad = 0, 0, collections.Counter(), len(faults)
            while n_kills < aim and time.monotonic() < until:
                name = f"round-{n_rounds}"
                address = place.address(name)

                def work(worker: str) -> subprocess.Popen:
                    words = ["share", "cache", address, "--unit-records", str(UNIT_RECORDS), "--worker", worker]
                    return subprocess.Popen(
                        command(*words), cwd=root, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                    )

                workers = {worker: work(worker) for worker in ["one", "two"]}
                kills_of_round = rng.randint(1, 12)
                while workers:
                    if kills_of_round:
                        time.sleep(rng.expovariate(1 / 0.12))
                        victim = rng.choice(sorted(workers))
                        process = workers[victim]
                        if process.poll() is None:
                            process.send_signal(signal.SIGKILL)
                            process.communicate()
                            n_kills, kills_of_round = n_kills + 1, kills_of_round - 1
                            n_there = sum(1 for _ in place.files(name).glob("*/units/*.json"))
                            at_units[min(9, 10 * n_there // n_units)] += 1
                            workers[victim] = work(victim)
                            continue
                    for worker, process in list(workers.items()):
                        if kills_of_round and process.poll() is None:
                            continue
                        out, err = process.communicate()
                        if process.returncode == 0:
                            del workers[worker]
                        elif kind == "hostile" and "cannot " in err:
                            # Seven tries that all failed: a worker that gives up is started again, as by a scheduler.
                            workers[worker] = work(worker)
                        else:
                            faults.append(f"{kind} {name}: a worker ended with {process.returncode}: {out[-300:]} {err[-300:]}")
                            del workers[worker]
                for words in [["verify"], ["seal"], ["verify"], ["sweep", "--remove-older-than", "0"]]:
                    for n_tries in range(5):
                        result = done(words[0], address, *words[1:], environment=place.environment)
                        if result.returncode == 0 or kind != "hostile" or "cannot " not in result.stderr:
                            break
                    if result.returncode != 0:
                        faults.append(f"{kind} {name}: {words[0]}: {result.stdout[-300:]} {result.stderr[-300:]}")
                    elif words[0] == "verify" and f"{n_units} of {n_units} units, each of their {n_records} records once" not in result.stdout:
                        faults.append(f"{kind} {name}: verify says {result.stdout}")
                found = files_below(place.files(name))
                if found != expected:
                    faults.append(f"{kind} {name}: differs in {sorted(set(found.items()) ^ set(expected.items()))[:4]}")
                shutil.rmtree(place.files(name))
                n_rounds += 1
            progress = ", ".join(f"{at_units[tenth]}" for tenth in range(10))
            print(f"{kind}: {n_kills} kills in {n_rounds} stores, {len(faults) - n_bad} faults; by tenths of the units that were there: {progress}", flush=True)
            if place.proxy:
                strikes = ", ".join(f"{name} {n}" for name, n in place.proxy.strikes.most_common())
                print(f"{kind}: of {place.proxy.n_requests} requests: {strikes}", flush=True)
            place.close()
    for fault in faults[:30]:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
