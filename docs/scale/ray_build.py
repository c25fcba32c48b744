#!/usr/bin/env python3
"""Fills a shared store by workers on a Ray cluster, then seals it.

    python3 docs/scale/ray_build.py --workers 32 --cpus 4 --place s3://answers/coco -- teacher build train.json train --weights mobile_sam.pt

Everything behind `--` is the command of a worker, without its place and its name. Each worker is a task of its own; a worker that dies, with its
node or without, is started again by Ray and goes on with what is left: units that are stored stay stored. Annotations, pictures,
weights and the program have to be on every node, at the same paths, and the credentials of an object store in the environment of Ray.

needs `pip install ray`; tried with 2.60.0
"""

import argparse
import subprocess
import sys

import ray


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", required=True, help="a folder that all nodes see, or s3://BUCKET/PREFIX")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--cpus", type=int, default=4, help="of each worker")
    parser.add_argument("--retries", type=int, default=20, help="of each worker that dies")
    parser.add_argument("--sensei", default="sensei")
    parser.add_argument("--address", help="of the cluster; without it, this machine alone")
    parser.add_argument("command", nargs="+", help="teacher build ANNOTATIONS IMAGES --weights WEIGHTS ...")
    arguments = parser.parse_args()
    ray.init(address=arguments.address, include_dashboard=False)

    @ray.remote(num_cpus=arguments.cpus, max_retries=arguments.retries, retry_exceptions=True)
    def work(nth: int) -> str:
        command = [arguments.sensei, *arguments.command, "--store", arguments.place, "--worker", f"ray-{nth}"]
        done = subprocess.run([*command, "--threads", str(arguments.cpus)], capture_output=True, text=True)
        if done.returncode != 0:
            # Ray starts the task again, as after the death of its process.
            raise RuntimeError(f"worker {nth} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    for said in ray.get([work.remote(nth) for nth in range(arguments.workers)]):
        print(said, end="")
    return subprocess.run([arguments.sensei, "teacher", "seal", arguments.place]).returncode


if __name__ == "__main__":
    sys.exit(main())
