//! Images stacked into tensors.

use crate::DataError;
use crate::prefetch::Prefetch;
use burn::Tensor;
use burn::data::dataloader::{DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Int, TensorData};
use std::ops::Range;

/// Images and their labels.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Normalised images, `[batch, 3, height, width]`.
    pub images: Tensor<4>,
    /// Classes, `[batch]`.
    pub labels: Tensor<1, Int>,
    /// The classes once more, for what is computed on the CPU.
    pub targets: Vec<usize>,
    /// The place of each image in the dataset.
    pub indices: Vec<usize>,
    /// Which batch this is, and which of its images.
    pub place: Place,
}

/// Which batch, and which of its images: one device of several has a part of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the batch: in training, counted from 0 over all epochs; in evaluation, from
    /// 0 in the dataset.
    pub number: u64,
    /// The images of this part, by their place in the whole batch.
    pub part: Range<usize>,
    /// Images of the whole batch.
    pub whole: usize,
}

impl Place {
    /// The share of the batch's images that are in this part.
    pub fn share(&self) -> f64 {
        self.part.len() as f64 / self.whole as f64
    }
}

/// A batch before it becomes tensors, which happens on the thread that uses them.
pub(crate) struct HostBatch<T> {
    /// The planes of its images, one after the other.
    pub pixels: Vec<T>,
    /// Height and width.
    pub size: [usize; 2],
    pub targets: Vec<usize>,
    pub indices: Vec<usize>,
    pub place: Place,
}

/// Makes normalised images of such a shape.
pub(crate) type Normalize<T> = Box<dyn Fn(Vec<T>, [usize; 4]) -> Tensor<4>>;

impl<T> HostBatch<T> {
    fn into_batch(self, normalize: &Normalize<T>, device: &Device) -> Batch {
        let count = self.targets.len();
        let [height, width] = self.size;
        let labels: Vec<i64> = self.targets.iter().map(|&target| target as i64).collect();
        Batch {
            images: normalize(self.pixels, [count, 3, height, width]),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
            targets: self.targets,
            indices: self.indices,
            place: self.place,
        }
    }
}

/// One epoch of a loader, or one pass of evaluation.
pub(crate) struct BatchIterator<T> {
    pub batches: Prefetch<Result<HostBatch<T>, DataError>>,
    pub normalize: Normalize<T>,
    pub device: Device,
    pub batch_size: usize,
    /// Images of this epoch that have been handed out.
    pub processed: usize,
    /// Images of this epoch.
    pub total: usize,
}

impl<T: Send + 'static> Iterator for BatchIterator<T> {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        self.processed = (self.processed + self.batch_size).min(self.total);
        Some(match batch {
            Ok(batch) => Ok(batch.into_batch(&self.normalize, &self.device)),
            Err(error) => Err(DatasetError::new(error)),
        })
    }
}

impl<T: Send + 'static> DataLoaderIterator<Batch> for BatchIterator<T> {
    fn progress(&self) -> Progress {
        Progress::new(self.processed, self.total, Some("images".into()))
    }
}
