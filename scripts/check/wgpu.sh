#!/usr/bin/env bash
# A short training by wgpu on a software Vulkan device, its loss curve beside the CPU's. Kernel fusion and tuning are off: with
# them the first step takes minutes there. Builds in target/wgpu, as burn's features differ from the workspace's.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! ls /usr/share/vulkan/icd.d/lvp_icd.*.json >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "expected Mesa's lavapipe: install the packages mesa-vulkan-drivers and libvulkan1"
        exit 1
    fi
    apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1 >/dev/null
fi
cargo test --release -p sensei --features wgpu --target-dir target/wgpu --test command_line -- device --nocapture --test-threads 1
