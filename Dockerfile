# docker build -t sensei . && docker run --rm -v "$PWD:/data" sensei run /sensei/configs/quickstart.toml
# The image holds the program, the configurations and the model that ships; data and runs are mounted at /data.
FROM rust:1.95.0-slim-bookworm AS build
# The image has it under this name, and would fetch `stable` by rust-toolchain.toml.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked --package sensei

FROM debian:bookworm-slim
COPY --from=build /source/target/release/sensei /usr/local/bin/sensei
COPY configs /sensei/configs
COPY datasets /sensei/datasets
COPY models /sensei/models
COPY LICENSE-APACHE LICENSE-MIT /sensei/
WORKDIR /data
ENTRYPOINT ["sensei"]
