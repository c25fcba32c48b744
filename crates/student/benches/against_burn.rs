//! Time of a training step of PicoSAM2 by our kernels and by burn's own operators, in one run:
//! `against_burn [threads] [batch] [repeats]`.
//!
//! Forward and backward, without the optimiser; both alternate. CPU time of all threads is printed beside wall time, since
//! other programs disturb it less.
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;

#[path = "../tests/paths/mod.rs"]
mod paths;

/// The allocator of the `sensei` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    sensei_tensor::ops::keep_freed_memory();
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let argument = |idx: usize, default| *arguments.get(idx).unwrap_or(&default);
    let (threads, batch, repeats) = (argument(0, 2), argument(1, 8), argument(2, 5));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the first pool of the process");
    let device = Device::flex().autodiff();
    let student = Student::new(UnetConfig::picosam2().graph().expect("a published setting"), 1, &device);
    let image = Tensor::<4>::random([batch, 3, 96, 96], Distribution::Uniform(-1.0, 1.0), &device.inner());
    type Forward = fn(&Student, Tensor<4>) -> Tensor<4>;
    let fast: Forward = |student, image| student.forward_train(image).masks.0;
    let mut minimum = [[f64::INFINITY; 4]; 2];
    for _ in 0..repeats {
        for (minimum, forward) in minimum.iter_mut().zip([fast, paths::portable_forward_train as Forward]) {
            let (wall, cpu) = (Instant::now(), cpu_secs());
            let loss = black_box(forward(&student, image.clone())).square().mean();
            let (wall_forward, cpu_forward) = (wall.elapsed().as_secs_f64(), cpu_secs() - cpu);
            drop(black_box(loss.backward()));
            let times = [wall_forward, wall.elapsed().as_secs_f64(), cpu_forward, cpu_secs() - cpu];
            minimum.iter_mut().zip(times).for_each(|(minimum, time)| *minimum = minimum.min(time));
        }
    }
    println!("PicoSAM2, batch {batch}, {threads} threads, minimum of {repeats} alternating runs, ms");
    for (name, [wall_forward, wall, cpu_forward, cpu]) in
        ["kernels", "burn's own"].into_iter().zip(minimum.map(|row| row.map(|secs| secs * 1e3)))
    {
        println!(
            "{name:10}  wall: forward {wall_forward:7.1}, both {wall:7.1}   CPU: forward {cpu_forward:7.1}, both {cpu:7.1}"
        );
    }
    println!("ratio       wall {:.2}   CPU {:.2}", minimum[1][1] / minimum[0][1], minimum[1][3] / minimum[0][3]);
}

/// Seconds that the threads of this process have run.
fn cpu_secs() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`, which the pointer is valid for.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
