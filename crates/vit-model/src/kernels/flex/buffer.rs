//! Memory of the kernels: outputs that are not zeroed first, and scratch that is kept.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::slice;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{Bytes, DType};
use burn::tensor::Shape;

/// A tensor that is still to be written.
pub(super) struct Buffer {
    values: Vec<f32>,
    shape: Shape,
}

impl Buffer {
    pub fn new<const D: usize>(shape: [usize; D]) -> Self {
        Self {
            values: Vec::with_capacity(shape.iter().product()),
            shape: Shape::from(shape),
        }
    }

    pub fn writer(&mut self) -> Writer<'_> {
        Writer {
            start: self.values.as_mut_ptr(),
            length: self.shape.num_elements(),
            buffer: PhantomData,
        }
    }

    /// The tensor.
    ///
    /// # Safety
    ///
    /// All of its values are written.
    pub unsafe fn filled(mut self) -> FlexTensor {
        // SAFETY: the capacity is there, and the caller promises that the values are written.
        unsafe { self.values.set_len(self.shape.num_elements()) };
        let bytes = Bytes::from_elems(self.values);
        FlexTensor::new(bytes, Layout::contiguous(self.shape), DType::F32)
    }
}

/// Values that several threads write, each its own of them.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    start: *mut f32,
    length: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is only a pointer; what is done through it is in the hands of those who use it.
unsafe impl Send for Writer<'_> {}
// SAFETY: as above.
unsafe impl Sync for Writer<'_> {}

impl<'a> Writer<'a> {
    /// Of values that are there already.
    pub fn new(values: &'a mut [f32]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            length: values.len(),
            buffer: PhantomData,
        }
    }

    /// A pointer to the value at `index`.
    pub fn at(self, index: usize) -> *mut f32 {
        debug_assert!(index < self.length);
        self.start.wrapping_add(index)
    }

    /// Writes `values` from `index` on, and returns them.
    ///
    /// # Safety
    ///
    /// Nobody else uses this part meanwhile.
    pub unsafe fn write(self, index: usize, values: &[f32]) -> &'a mut [f32] {
        assert!(index + values.len() <= self.length);
        let start = self.at(index).cast::<MaybeUninit<f32>>();
        // SAFETY: within the buffer, and exclusive by the caller's promise.
        let part = unsafe { slice::from_raw_parts_mut(start, values.len()) };
        part.write_copy_of_slice(values)
    }

    /// Writes `value` to each of `length` values from `index` on, and returns them.
    ///
    /// # Safety
    ///
    /// Nobody else uses this part meanwhile.
    pub unsafe fn fill(self, index: usize, length: usize, value: f32) -> &'a mut [f32] {
        assert!(index + length <= self.length);
        for index in index..index + length {
            // SAFETY: within the buffer, and exclusive by the caller's promise.
            unsafe { self.at(index).write(value) };
        }
        // SAFETY: as above, and written.
        unsafe { self.part(index, length) }
    }

    /// The `length` values from `index` on.
    ///
    /// # Safety
    ///
    /// They are written already, and nobody else uses them meanwhile.
    pub unsafe fn part(self, index: usize, length: usize) -> &'a mut [f32] {
        assert!(index + length <= self.length);
        // SAFETY: within the buffer; initialised and exclusive by the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.at(index), length) }
    }
}

/// Calls `run` with `length` values of scratch memory, which hold anything and start at a cache
/// line. Each thread keeps one such memory, so that its pages stay warm.
pub(super) fn with_scratch<R>(length: usize, run: impl FnOnce(&mut [f32]) -> R) -> R {
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line {
        _values: [f32; 16],
    }

    thread_local! {
        static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|lines| {
        let needed = length.div_ceil(16);
        if lines.len() < needed {
            lines.resize(needed, Line { _values: [0.0; 16] });
        }
        let start = lines.as_mut_ptr().cast::<f32>();
        // SAFETY: a line is sixteen values without padding, and `lines` has enough of them.
        run(unsafe { slice::from_raw_parts_mut(start, length) })
    })
}
