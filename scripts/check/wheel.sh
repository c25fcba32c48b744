#!/usr/bin/env bash
# The Python wheel as a user gets it: built, installed into an environment of its own, tested from Python, its types checked, its notebooks run.
# Needs python3 from 3.11 on; tests against the program need target/release/sensei, and say so where it is not there.
#
#     scripts/check/wheel.sh        the environment and the wheel stay in target/wheel
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
target=$root/target/wheel

packages=(
    maturin==1.16.0
    ipykernel==7.4.0 nbclient==0.11.0 # run the notebooks
    mypy==2.4.1
    numpy==2.3.5  # as in the gate's other environment
    pillow==13.0.0 # reads the masks that `sensei predict` writes
    pycocotools==2.0.11 # whose numbers AP is held to
    pytest==9.2.0
)
# An environment of another list is made anew.
if [ "$(cat "$target/packages" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$target/python" "$target/packages"
    python3 -m venv "$target/python"
    "$target/python/bin/pip" install -q "${packages[@]}"
    echo "${packages[*]}" >"$target/packages"
fi
export PATH="$target/python/bin:$PATH"

rm -rf "$target/wheels"
maturin build --release --locked --quiet --manifest-path crates/python/Cargo.toml --interpreter python3 --out "$target/wheels"
pip install -q --force-reinstall --no-deps "$target"/wheels/*.whl
ls -l "$target"/wheels

# Away from the sources: what is imported is what was installed.
cd "$target"
# pycocotools calls NumPy by an older agreement.
python -m pytest -q -p no:cacheprovider -W "ignore:__array__ implementation:DeprecationWarning" "$root/crates/python/tests"
mypy --strict --cache-dir "$target/mypy" "$root/crates/python/tests/typed.py"
# The compiled module inside of the package, which maturin makes: its names are the package's.
echo 'sensei\.sensei' >"$target/allowed"
MYPY_CACHE_DIR="$target/mypy" stubtest sensei --allowlist "$target/allowed" --mypy-config-file "$root/crates/python/pyproject.toml"
python "$root/crates/python/tests/run_notebooks.py" "$root"/crates/python/notebooks/*.ipynb
