"""Runs notebooks and prints what a cell could not do.

    python run_notebooks.py NOTEBOOK...
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

for path in map(Path, sys.argv[1:]):
    notebook = nbformat.read(path, as_version=4)
    of_code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in of_code), f"{path}: expected no outputs, found some"
    start = time.monotonic()
    of_notebook = {"kernel_name": "python3", "resources": {"metadata": {"path": path.parent}}}
    NotebookClient(notebook, timeout=120, extra_arguments=["--log-level=ERROR"], **of_notebook).execute()
    print(f"{path.name}: {len(of_code)} cells in {time.monotonic() - start:.1f} s")
