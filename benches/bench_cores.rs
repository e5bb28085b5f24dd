//! The cores without Python around them: `cargo bench --no-default-features`.

use criterion::{Criterion, criterion_group, criterion_main};
use ferrule::{clock, timing::histogram::Durations};
use std::hint::black_box;

fn timing(criterion: &mut Criterion) {
    let durations = Durations::default();
    let mut duration = 0_u64;
    let mut next = || {
        duration = duration.wrapping_add(977) & 0xffff;
        duration
    };
    criterion.bench_function("record, one thread at a time", |bench| {
        bench.iter(|| durations.record::<false>(black_box(next()), false));
    });
    criterion.bench_function("record, shared", |bench| {
        bench.iter(|| durations.record::<true>(black_box(next()), false));
    });
    criterion.bench_function("summary and a quantile", |bench| bench.iter(|| durations.summary().quantile(0.99)));
}

fn clocks(criterion: &mut Criterion) {
    criterion.bench_function("clock, precise", |bench| bench.iter(clock::precise));
    criterion.bench_function("clock, coarse", |bench| bench.iter(clock::coarse));
    criterion.bench_function("clock, std::time::Instant", |bench| bench.iter(std::time::Instant::now));
}

criterion_group!(cores, timing, clocks);
criterion_main!(cores);
