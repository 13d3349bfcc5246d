//! Compiles `tokens.cu` and launches its kernels.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use tch::{Kind, Tensor as Torch};

const SOURCE: &str = include_str!("tokens.cu");
/// Kernels for any floats.
const PLAIN: [&str; 3] = ["best_match", "highest", "plan"];
/// Kernels that there are for each kind of floats.
const BY_KIND: [&str; 3] = ["unit_keys", "merge", "add_norm"];
const KINDS: [(Kind, &str); 3] = [
    (Kind::Float, "f32"),
    (Kind::BFloat16, "bf16"),
    (Kind::Half, "f16"),
];
/// Wider keys would not fit into a thread's registers.
const WIDEST_KEYS: usize = 128;
/// Keys of most models are so wide.
const USUAL_KEYS: usize = 64;
/// What a block may share without asking for more, in bytes; kernels have a part of it themselves.
const MOST_SHARED: usize = 24 << 10;

/// The compiled kernels, for one device and one width of keys.
pub(super) struct Program {
    stream: Arc<CudaStream>,
    functions: HashMap<(&'static str, Option<&'static str>), CudaFunction>,
}

/// A kernel, how it is launched, and its arguments in their order.
pub(super) struct Launch<'a> {
    pub kernel: &'static str,
    /// Which floats it is for, where there are several.
    pub kind: Option<Kind>,
    pub blocks: [usize; 2],
    pub threads: usize,
    /// Values of 32 bits that a block shares.
    pub shared: usize,
    /// Null where there is none.
    pub tensors: &'a [Option<&'a Torch>],
    pub numbers: &'a [usize],
    pub real: Option<f32>,
}

/// Per device and width of keys; none where they cannot be compiled.
type Compiled = HashMap<(usize, usize), Option<Arc<Program>>>;
static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(Default::default);

impl Program {
    /// The kernels for keys of this width, where the tensor is on an NVIDIA GPU.
    pub fn for_keys(tensor: &Torch, width: usize) -> Option<Arc<Self>> {
        let tch::Device::Cuda(device) = tensor.device() else {
            return None;
        };
        if width == 0 || width > WIDEST_KEYS {
            return None;
        }
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let program = compiled.entry((device, width)).or_insert_with(|| {
            let program = Self::compile(device, width);
            if let Err(reason) = &program {
                tracing::warn!(
                    "norms and merging by LibTorch's own operations, which are slower: {reason}"
                );
            }
            program.ok().map(Arc::new)
        });
        program.clone()
    }

    /// Those kernels that look at no keys.
    pub fn any(tensor: &Torch) -> Option<Arc<Self>> {
        Self::for_keys(tensor, USUAL_KEYS)
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
        let plain = PLAIN.map(|name| (name, None));
        let by_kind = BY_KIND
            .iter()
            .flat_map(|&name| KINDS.map(|(_, suffix)| (name, Some(suffix))));
        let function = |(name, suffix): (&'static str, Option<&'static str>)| {
            let full = match suffix {
                Some(suffix) => format!("{name}_{suffix}"),
                None => name.to_string(),
            };
            let function = module.load_function(&full);
            let function = function.map_err(|error| format!("{full}: {error}"))?;
            Ok(((name, suffix), function))
        };
        let functions: Result<_, String> = plain.into_iter().chain(by_kind).map(function).collect();
        Ok(Self {
            // The one that LibTorch enqueues on.
            stream: context.default_stream(),
            functions: functions?,
        })
    }

    /// Enqueues a kernel. None where it is not for such floats or shapes.
    pub fn run(&self, launch: &Launch<'_>) -> Option<()> {
        let suffix = match launch.kind {
            Some(kind) => Some(KINDS.iter().find(|(known, _)| *known == kind)?.1),
            None => None,
        };
        let function = self.functions.get(&(launch.kernel, suffix))?;
        let shared = launch.shared * size_of::<u32>();
        if shared > MOST_SHARED {
            return None;
        }
        let [x, y] = launch.blocks;
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, 1),
            block_dim: (launch.threads as u32, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        let pointer = |tensor: &Option<&Torch>| tensor.map_or(0, |tensor| tensor.data_ptr() as u64);
        let pointers: Vec<u64> = launch.tensors.iter().map(pointer).collect();
        let numbers: Vec<i32> = launch.numbers.iter().map(|&number| number as i32).collect();
        let mut arguments = self.stream.launch_builder(function);
        for pointer in &pointers {
            arguments.arg(pointer);
        }
        for number in &numbers {
            arguments.arg(number);
        }
        if let Some(real) = &launch.real {
            arguments.arg(real);
        }
        // SAFETY: the arguments are the kernel's own, the tensors as large as it takes them to be, and it stays
        // within them. LibTorch's allocator gives memory away on this stream alone.
        unsafe { arguments.launch(config) }.ok()?;
        Some(())
    }
}
