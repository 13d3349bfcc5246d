//! Prepacked linear layers in each precision, and the bare instruction beside them: items are floating-point operations
//! (of integers, too), so that Gitem/s are GFLOP/s.
#![allow(missing_docs)]

use apt_vit_model::Precision;
use apt_vit_model::fused::Prepacked;
use burn::nn::LinearConfig;
use burn::tensor::{Device, Distribution, Tensor};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// Those of one image that was pruned to nothing, to a tenth and to a third, of a whole one and of eight.
const ROWS: [usize; 5] = [1, 20, 70, 197, 1576];

/// Hidden size of the model, and inputs and outputs by it.
const SIZES: [(&str, usize); 3] = [("vit-ti16", 192), ("vit-s16", 384), ("vit-b16", 768)];
const LAYERS: [(&str, usize, usize); 4] =
    [("qkv", 1, 3), ("proj", 1, 1), ("fc1", 1, 4), ("fc2", 4, 1)];

#[divan::bench(args = names(), sample_count = 20)]
fn product(bencher: Bencher<'_, '_>, name: &str) {
    let (precision, layer, rows) = parse(name);
    let device = Device::default();
    let [inputs, outputs] = layer;
    let Some(layer) = Prepacked::new(&LinearConfig::new(inputs, outputs).init(&device), precision)
    else {
        eprintln!("skipped: {} has no kernels here", precision.name());
        return;
    };
    let input = Tensor::<2>::random([rows, inputs], Distribution::Default, &device);
    let flops = ItemsCount::new(2 * rows * inputs * outputs);
    bencher
        .counter(flops)
        .bench_local(|| layer.forward(black_box(&input)));
}

fn names() -> Vec<String> {
    let mut names = Vec::new();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for (model, _) in SIZES {
            for (layer, ..) in LAYERS {
                names.extend(
                    ROWS.map(|rows| format!("{} {model} {layer} {rows}", precision.name())),
                );
            }
        }
    }
    names
}

/// The precision, inputs and outputs, and rows of a name.
fn parse(name: &str) -> (Precision, [usize; 2], usize) {
    let words: Vec<&str> = name.split(' ').collect();
    let found = |index: usize| words.get(index).copied().unwrap_or_default();
    let precision = Precision::ALL
        .into_iter()
        .find(|precision| precision.name() == found(0));
    let size = SIZES
        .iter()
        .find(|size| size.0 == found(1))
        .map_or(0, |size| size.1);
    let layer = LAYERS.iter().find(|layer| layer.0 == found(2));
    let shape = layer.map_or([0, 0], |layer| [size * layer.1, size * layer.2]);
    (
        precision.unwrap_or_default(),
        shape,
        found(3).parse().unwrap_or(1),
    )
}

/// Loops of one instruction on registers, on one thread: what no product can exceed.
#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::asm;

    use apt_vit_model::Precision;
    use divan::Bencher;
    use divan::counter::ItemsCount;

    /// Instructions of a sample.
    const COUNT: usize = 4 << 14;

    fn has(precision: Precision, instructions: &str) -> bool {
        let has = precision.instructions() == Some(instructions);
        if !has {
            eprintln!(
                "skipped: this CPU does not compute {} by {instructions}",
                precision.name()
            );
        }
        has
    }

    #[repr(C, align(64))]
    struct Tiles([u8; 64]);

    impl Tiles {
        /// Configures eight tiles of sixteen lines.
        fn new() -> Self {
            let mut config = [0; 64];
            config[0] = 1;
            for tile in 0..8 {
                config[16 + 2 * tile] = 64;
                config[48 + tile] = 16;
            }
            let config = Self(config);
            // SAFETY: whoever asks has the instruction.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack)) };
            config
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: they are configured.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }

    macro_rules! tiles {
        ($name:ident, $instruction:literal, $precision:expr, $by:literal, $flops:expr) => {
            #[divan::bench]
            fn $name(bencher: Bencher<'_, '_>) {
                if !has($precision, $by) {
                    return;
                }
                let _tiles = Tiles::new();
                bencher.counter(ItemsCount::new(COUNT * $flops)).bench_local(|| {
                    // SAFETY: the tiles are configured.
                    unsafe {
                        asm!("2:",
                            concat!($instruction, " tmm0, tmm4, tmm6"),
                            concat!($instruction, " tmm1, tmm4, tmm7"),
                            concat!($instruction, " tmm2, tmm5, tmm6"),
                            concat!($instruction, " tmm3, tmm5, tmm7"),
                            "dec {count}", "jnz 2b",
                            count = inout(reg) COUNT / 4 => _, options(nostack, nomem));
                    }
                });
            }
        };
    }

    tiles!(
        amx_bf16,
        "tdpbf16ps",
        Precision::Bf16,
        "AMX-BF16",
        16 * 16 * 32 * 2
    );
    tiles!(
        amx_int8,
        "tdpbssd",
        Precision::Int8,
        "AMX-INT8",
        16 * 16 * 64 * 2
    );

    macro_rules! vectors {
        ($name:ident, $instruction:literal, $there:expr, $flops:expr) => {
            #[divan::bench]
            fn $name(bencher: Bencher<'_, '_>) {
                if !$there {
                    eprintln!("skipped: this CPU has no {}", stringify!($name));
                    return;
                }
                bencher.counter(ItemsCount::new(COUNT * $flops)).bench_local(|| {
                    // SAFETY: the instruction is there, and the registers are given up.
                    unsafe {
                        asm!("2:",
                            concat!($instruction, " zmm0, zmm16, zmm17"), concat!($instruction, " zmm1, zmm16, zmm17"),
                            concat!($instruction, " zmm2, zmm16, zmm17"), concat!($instruction, " zmm3, zmm16, zmm17"),
                            concat!($instruction, " zmm4, zmm16, zmm17"), concat!($instruction, " zmm5, zmm16, zmm17"),
                            concat!($instruction, " zmm6, zmm16, zmm17"), concat!($instruction, " zmm7, zmm16, zmm17"),
                            concat!($instruction, " zmm8, zmm16, zmm17"), concat!($instruction, " zmm9, zmm16, zmm17"),
                            concat!($instruction, " zmm10, zmm16, zmm17"), concat!($instruction, " zmm11, zmm16, zmm17"),
                            concat!($instruction, " zmm12, zmm16, zmm17"), concat!($instruction, " zmm13, zmm16, zmm17"),
                            concat!($instruction, " zmm14, zmm16, zmm17"), concat!($instruction, " zmm15, zmm16, zmm17"),
                            "dec {count}", "jnz 2b",
                            count = inout(reg) COUNT / 16 => _, options(nostack, nomem),
                            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                            out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                            out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _);
                    }
                });
            }
        };
    }

    vectors!(
        avx512_f32,
        "vfmadd231ps",
        is_x86_feature_detected!("avx512f"),
        32
    );
    vectors!(
        avx512_bf16,
        "vdpbf16ps",
        is_x86_feature_detected!("avx512bf16"),
        64
    );
    vectors!(
        avx512_vnni,
        "vpdpbusd",
        is_x86_feature_detected!("avx512vnni"),
        128
    );

    macro_rules! halves {
        ($name:ident, $flops:expr, $($instruction:literal)*) => {
            #[divan::bench]
            fn $name(bencher: Bencher<'_, '_>) {
                if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
                    eprintln!("skipped: this CPU has no AVX2");
                    return;
                }
                bencher.counter(ItemsCount::new(COUNT / 4 * $flops)).bench_local(|| {
                    // SAFETY: the instructions are there, and the registers are given up.
                    unsafe {
                        asm!("2:", $($instruction,)* "dec {count}", "jnz 2b",
                            count = inout(reg) COUNT / 4 => _, options(nostack, nomem),
                            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _);
                    }
                });
            }
        };
    }

    halves!(avx2_f32, 10 * 16,
        "vfmadd231ps ymm0, ymm14, ymm15" "vfmadd231ps ymm1, ymm14, ymm15"
        "vfmadd231ps ymm2, ymm14, ymm15" "vfmadd231ps ymm3, ymm14, ymm15"
        "vfmadd231ps ymm4, ymm14, ymm15" "vfmadd231ps ymm5, ymm14, ymm15"
        "vfmadd231ps ymm6, ymm14, ymm15" "vfmadd231ps ymm7, ymm14, ymm15"
        "vfmadd231ps ymm8, ymm14, ymm15" "vfmadd231ps ymm9, ymm14, ymm15");
    // The four instructions that 32 products of integers with signs take.
    halves!(avx2_int8, 3 * 64,
        "vpsignb ymm0, ymm14, ymm15" "vpmaddubsw ymm1, ymm14, ymm15" "vpmaddwd ymm2, ymm14, ymm15" "vpaddd ymm3, ymm14, ymm15"
        "vpsignb ymm4, ymm14, ymm15" "vpmaddubsw ymm5, ymm14, ymm15" "vpmaddwd ymm6, ymm14, ymm15" "vpaddd ymm7, ymm14, ymm15"
        "vpsignb ymm8, ymm14, ymm15" "vpmaddubsw ymm9, ymm14, ymm15" "vpmaddwd ymm10, ymm14, ymm15" "vpaddd ymm11, ymm14, ymm15");
}
