//! The kernels in `tokens.cu` on LibTorch's tensors. NVIDIA's run-time compiler makes them when they are first used; where
//! it is not there, or a shape is not theirs, tensor operations do the same.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn::prelude::*;
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use tch::{Kind, Tensor as Torch};

use crate::{MergeWeights, UniformMerge};

const SOURCE: &str = include_str!("tokens.cu");
const WARP: u32 = 32;
/// Threads of a block that looks for matches, ranks, or merges.
const THREADS: u32 = 128;
/// Wider keys would not fit into a thread's registers.
const WIDEST: usize = 128;
/// More tokens would not fit into a block's memory.
const MOST_TOKENS: usize = 8192;

/// The compiled kernels, for a device and a width of keys.
struct Gpu {
    stream: Arc<CudaStream>,
    functions: HashMap<&'static str, CudaFunction>,
}

/// Per device and width of keys; none where they cannot be compiled.
type Compiled = HashMap<(usize, usize), Option<Arc<Gpu>>>;
static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(Default::default);

const NAMES: [&str; 9] = [
    "unit_keys_f32",
    "unit_keys_bf16",
    "unit_keys_f16",
    "merge_f32",
    "merge_bf16",
    "merge_f16",
    "best_match",
    "highest",
    "plan",
];

/// Keys averaged over the heads, as unit vectors: `[rows, 3 * hidden]` to `[rows, width]`.
pub(crate) fn unit_keys(qkv: &Tensor<2>, heads: usize) -> Option<Tensor<2>> {
    let qkv = torch(qkv.clone())?;
    let [rows, columns] = sizes(&qkv)?;
    let width = columns / 3 / heads;
    let gpu = Gpu::of(&qkv, width)?;
    let name = of_kind("unit_keys", qkv.kind())?;
    let out = empty(&[rows, width], Kind::Float, &qkv);
    let warps = THREADS / WARP;
    let blocks = (rows as u32).div_ceil(warps);
    let config = launch([blocks, 1], THREADS, 0);
    let (input, output) = (pointer(&qkv), pointer(&out));
    let (rows, heads) = (rows as i32, heads as i32);
    let mut args = gpu.stream.launch_builder(gpu.functions.get(name)?);
    args.arg(&input).arg(&output).arg(&rows).arg(&heads);
    // SAFETY: the arguments are the kernel's own; every thread stays within its row.
    unsafe { args.launch(config) }.ok()?;
    Some(float(out))
}

/// The similarity and the place of every seeking token's best match; see [`super::super::decisions::best_match`].
pub(crate) fn best_match(keys: &Tensor<3>, prefix: usize) -> Option<(Tensor<2>, Tensor<2, Int>)> {
    let keys = torch(keys.clone())?;
    let [batch, tokens, width] = sizes(&keys)?;
    let gpu = Gpu::of(&keys, width)?;
    let similarity = empty(&[batch, tokens], Kind::Float, &keys);
    let into = empty(&[batch, tokens], Kind::Int64, &keys);
    let config = launch([batch as u32, 1], THREADS, 0);
    let pointers = [&keys, &similarity, &into].map(pointer);
    let numbers = [tokens, prefix].map(|number| number as i32);
    let mut args = gpu.stream.launch_builder(gpu.functions.get("best_match")?);
    for pointer in &pointers {
        args.arg(pointer);
    }
    for number in &numbers {
        args.arg(number);
    }
    // SAFETY: the arguments are the kernel's own; places are below the number of tokens.
    unsafe { args.launch(config) }.ok()?;
    Some((
        float(similarity),
        Tensor::from_primitive::<LibTorch>(new(into)),
    ))
}

/// The prefix and the `count` tokens after it that score highest; see [`super::super::decisions::highest`].
pub(crate) fn highest(scores: &Tensor<2>, prefix: usize, count: usize) -> Option<Tensor<2, Bool>> {
    let scores = torch(scores.clone())?;
    let [batch, tokens] = sizes(&scores)?;
    let gpu = Gpu::any(&scores, tokens)?;
    let chosen = empty(&[batch, tokens], Kind::Bool, &scores);
    let config = launch([batch as u32, 1], THREADS, tokens * size_of::<f32>());
    let pointers = [&scores, &chosen].map(pointer);
    let numbers = [tokens, prefix, count].map(|number| number as i32);
    let mut args = gpu.stream.launch_builder(gpu.functions.get("highest")?);
    for pointer in &pointers {
        args.arg(pointer);
    }
    for number in &numbers {
        args.arg(number);
    }
    // SAFETY: the arguments are the kernel's own; the block has memory for all scores of an image.
    unsafe { args.launch(config) }.ok()?;
    Some(Tensor::from_primitive::<LibTorch>(new(chosen)))
}

/// The rows that are left and their sizes where those count; see [`super::super::decisions::merge`].
pub(crate) fn merge(
    rows: &Tensor<2>,
    keep: &Tensor<2, Bool>,
    left: usize,
    merge: Option<&UniformMerge>,
    sizes_before: Option<&Tensor<2>>,
) -> Option<(Tensor<2>, Option<Tensor<2>>)> {
    let rows = torch(rows.clone())?;
    let keep = keep.clone().try_into_primitive::<LibTorch>().ok()?;
    let keep = keep.tensor.contiguous();
    let [batch, tokens] = sizes(&keep)?;
    let [_, hidden] = sizes(&rows)?;
    let gpu = Gpu::any(&rows, tokens)?;
    let name = of_kind("merge", rows.kind())?;
    if hidden % 4 != 0 || left > tokens {
        return None;
    }
    let removed = tokens - left;
    let into = match merge {
        Some(merge) => {
            let into = merge.into.clone().try_into_primitive::<LibTorch>().ok()?;
            Some(into.tensor.to_kind(Kind::Int64).contiguous())
        }
        None => None,
    };
    let mean = merge.is_some_and(|merge| matches!(merge.weights, MergeWeights::Sizes));
    if sizes_before.is_some() && !mean {
        return None;
    }
    let weights = match merge.map(|merge| &merge.weights) {
        Some(MergeWeights::Given(weights)) => Some(weights),
        Some(MergeWeights::Sizes) => sizes_before,
        None => None,
    };
    let weights = match weights {
        Some(weights) => Some(torch(weights.clone())?.to_kind(Kind::Float)),
        None => None,
    };

    let [source, gone, target] =
        [left, removed, removed].map(|count| empty(&[batch, count.max(1)], Kind::Int, &rows));
    let or_null = |tensor: Option<&Torch>| tensor.map_or(0, pointer);
    let shared = tokens * size_of::<i32>();
    let pointers = [
        pointer(&keep),
        or_null(into.as_ref()),
        pointer(&source),
        pointer(&gone),
        pointer(&target),
    ];
    let numbers = [tokens, left, removed].map(|number| number as i32);
    let mut args = gpu.stream.launch_builder(gpu.functions.get("plan")?);
    for pointer in &pointers {
        args.arg(pointer);
    }
    for number in &numbers {
        args.arg(number);
    }
    // SAFETY: the arguments are the kernel's own; it writes no more than `left` and `removed` places an image.
    unsafe { args.launch(launch([batch as u32, 1], WARP, shared)) }.ok()?;

    let out = empty(&[batch * left, hidden], rows.kind(), &rows);
    let sums = mean.then(|| empty(&[batch, left], Kind::Float, &rows));
    let pointers = [
        pointer(&rows),
        pointer(&source),
        pointer(&gone),
        pointer(&target),
        or_null(weights.as_ref()),
        pointer(&out),
        or_null(sums.as_ref()),
    ];
    let members = if into.is_some() { removed } else { 0 };
    let numbers = [tokens, left, members, hidden, usize::from(mean)].map(|number| number as i32);
    let threads = (hidden as u32 / 4).next_multiple_of(WARP).min(256);
    let shared = removed.max(1) * size_of::<i32>();
    let mut args = gpu.stream.launch_builder(gpu.functions.get(name)?);
    for pointer in &pointers {
        args.arg(pointer);
    }
    for number in &numbers {
        args.arg(number);
    }
    // SAFETY: the arguments are the kernel's own; the plan names rows of the image alone.
    unsafe { args.launch(launch([left as u32, batch as u32], threads, shared)) }.ok()?;
    Some((float(out), sums.map(float)))
}

impl Gpu {
    /// The kernels for keys of this width, where the tensor is on an NVIDIA GPU.
    fn of(tensor: &Torch, width: usize) -> Option<Arc<Self>> {
        let tch::Device::Cuda(device) = tensor.device() else {
            return None;
        };
        if width == 0 || width > WIDEST {
            return None;
        }
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let gpu = compiled.entry((device, width)).or_insert_with(|| {
            let gpu = Self::compile(device, width);
            if let Err(reason) = &gpu {
                tracing::warn!("merging by tensor operations, which is slower: {reason}");
            }
            gpu.ok().map(Arc::new)
        });
        gpu.clone()
    }

    /// Those kernels that look at no keys, for images of so many tokens.
    fn any(tensor: &Torch, tokens: usize) -> Option<Arc<Self>> {
        if tokens > MOST_TOKENS {
            return None;
        }
        let tch::Device::Cuda(device) = tensor.device() else {
            return None;
        };
        let known = {
            let compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
            let mut known = compiled.iter().filter(|((own, _), _)| *own == device);
            known.find_map(|(_, gpu)| gpu.clone())
        };
        known.or_else(|| Self::of(tensor, 64))
    }

    fn compile(device: usize, width: usize) -> Result<Self, String> {
        // SAFETY: they look for a library of that name, and nothing else.
        let (driver, compiler) = unsafe {
            (
                cudarc::driver::sys::is_culib_present(),
                cudarc::nvrtc::sys::is_culib_present(),
            )
        };
        if !driver || !compiler {
            return Err("NVIDIA's run-time compiler (libnvrtc) is not there".into());
        }
        let context = CudaContext::new(device).map_err(|error| error.to_string())?;
        let options = CompileOptions {
            arch: Some("compute_80"),
            options: vec![format!("-DWIDTH={width}"), "--std=c++17".into()],
            ..Default::default()
        };
        let code = compile_ptx_with_opts(SOURCE, options).map_err(|error| error.to_string())?;
        let module = context
            .load_module(code)
            .map_err(|error| error.to_string())?;
        let function = |name| {
            let function = module.load_function(name);
            Ok((name, function.map_err(|error| format!("{name}: {error}"))?))
        };
        let functions: Result<_, String> = NAMES.into_iter().map(function).collect();
        Ok(Self {
            // The one that LibTorch enqueues on.
            stream: context.default_stream(),
            functions: functions?,
        })
    }
}

/// LibTorch's tensor, its values side by side, if it is one and on a GPU.
fn torch<const D: usize>(tensor: Tensor<D>) -> Option<Torch> {
    let tensor = tensor.try_into_primitive::<LibTorch>().ok()?.tensor;
    tensor.device().is_cuda().then(|| tensor.contiguous())
}

fn sizes<const D: usize>(tensor: &Torch) -> Option<[usize; D]> {
    let sizes = tensor.size().into_iter().map(|size| size as usize);
    sizes.collect::<Vec<_>>().try_into().ok()
}

/// The kernel for such floats.
fn of_kind(name: &str, kind: Kind) -> Option<&'static str> {
    let suffix = match kind {
        Kind::Float => "f32",
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        _ => return None,
    };
    let name = format!("{name}_{suffix}");
    NAMES.into_iter().find(|known| *known == name)
}

fn empty(shape: &[usize], kind: Kind, like: &Torch) -> Torch {
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    Torch::empty(shape, (kind, like.device()))
}

fn pointer(tensor: &Torch) -> u64 {
    tensor.data_ptr() as u64
}

fn launch([x, y]: [u32; 2], threads: u32, shared: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (x, y, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared as u32,
    }
}

fn float<const D: usize>(tensor: Torch) -> Tensor<D> {
    Tensor::from_primitive::<LibTorch>(new(tensor))
}

fn new(tensor: Torch) -> FloatTensor<LibTorch> {
    FloatTensor::<LibTorch>::new(tensor)
}
