//! Loaders that make the same batches for any number of threads, and from any point on.

use crate::batch::{Batch, BatchIterator, HostBatch, Place};
use crate::order::Order;
use crate::prefetch::Prefetch;
use crate::seed::mix_seed;
use crate::transform::{Normalization, TrainTransform, eval_image, train_image};
use crate::{DataError, ImageDataset};
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::tensor::Device;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keeps the seed's streams apart.
const TRANSFORM: u64 = 0x7a57;

/// How a [`TrainLoader`] makes its batches.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderSettings {
    /// Images a batch.
    pub batch_size: usize,
    /// Height and width of the images in a batch, in pixels.
    pub image_size: [u32; 2],
    /// Random changes.
    pub transform: TrainTransform,
    /// Normalisation.
    pub normalization: Normalization,
    /// Seed of order and changes.
    pub seed: u64,
    /// Background threads; 0 makes each batch when it is asked for.
    pub workers: usize,
}

/// An endless stream of training batches in a seeded order.
///
/// Pass `p` over the data is a permutation from (seed, p). Batch `k` holds the positions
/// `k * batch_size ..` of that stream, across the border of two passes where it falls so, and the
/// random changes of an image come from (seed, position). So batch `k` is a pure function of
/// (seed, k), and a run can go on at any batch.
///
/// Each call of [`iter`](DataLoader::iter) is the next epoch: the first one begins at the start
/// batch and ends where its epoch does (epochs begin at multiples of `batches_per_epoch`). An
/// iterator that is dropped early counts as a whole epoch. Clones by
/// [`to_device`](DataLoader::to_device) share that count.
///
/// An image that cannot be decoded makes its batch an error that names it.
pub struct TrainLoader {
    dataset: ImageDataset,
    settings: LoaderSettings,
    /// Which images of each batch this loader makes.
    part: Range<usize>,
    batches_per_epoch: u64,
    next: Arc<AtomicU64>,
    device: Device,
}

impl TrainLoader {
    /// A loader whose first epoch begins at batch `start_batch`, on the default device.
    ///
    /// # Panics
    ///
    /// If the dataset is empty, or the batch size or `batches_per_epoch` is 0.
    pub fn new(
        dataset: ImageDataset,
        settings: LoaderSettings,
        batches_per_epoch: usize,
        start_batch: u64,
    ) -> Self {
        assert!(!dataset.is_empty(), "a training set with images");
        assert!(settings.batch_size > 0, "a batch size above 0");
        assert!(batches_per_epoch > 0, "epochs of at least one batch");
        Self {
            part: 0..settings.batch_size,
            dataset,
            settings,
            batches_per_epoch: batches_per_epoch as u64,
            next: Arc::new(AtomicU64::new(start_batch)),
            device: Device::default(),
        }
    }

    fn epoch_end(&self, batch: u64) -> u64 {
        (batch / self.batches_per_epoch + 1) * self.batches_per_epoch
    }

    /// Makes that part of batch `number`, given its order.
    fn make(
        dataset: &ImageDataset,
        settings: &LoaderSettings,
        part: &Range<usize>,
        order: &mut Order,
        number: u64,
    ) -> Result<HostBatch, DataError> {
        let start = number * settings.batch_size as u64;
        let images = (start + part.start as u64..start + part.end as u64)
            .map(|position| (order.at(position), position))
            .collect::<Vec<_>>();
        let indices = images.iter().map(|&(index, _)| index).collect();
        host_batch(
            dataset,
            indices,
            settings.image_size,
            Place {
                number,
                part: part.clone(),
                whole: settings.batch_size,
            },
            |i, image, out| {
                let seed = mix_seed(&[settings.seed, TRANSFORM, images[i].1]);
                train_image(
                    image,
                    settings.image_size,
                    &settings.transform,
                    &settings.normalization,
                    seed,
                    out,
                );
            },
        )
    }
}

impl DataLoader<Batch> for TrainLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let advance = |batch| Some(self.epoch_end(batch));
        let (Ok(start) | Err(start)) =
            self.next
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance);
        let end = self.epoch_end(start);

        let (dataset, settings) = (self.dataset.clone(), self.settings.clone());
        let part = self.part.clone();
        let batch_size = part.len();
        let mut order = Order::new(dataset.len(), settings.seed);
        let batches = Prefetch::new(start..end, settings.workers, move |number| {
            Self::make(&dataset, &settings, &part, &mut order, number)
        });
        Box::new(BatchIterator {
            batches,
            device: self.device.clone(),
            batch_size,
            processed: (start % self.batches_per_epoch) as usize * batch_size,
            total: self.num_items(),
        })
    }

    /// Images an epoch, which need not be the size of the dataset.
    fn num_items(&self) -> usize {
        self.batches_per_epoch as usize * self.part.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            dataset: self.dataset.clone(),
            settings: self.settings.clone(),
            part: self.part.clone(),
            batches_per_epoch: self.batches_per_epoch,
            next: self.next.clone(),
            device: device.clone(),
        })
    }

    /// A loader for the share `start..end` of [`num_items`](DataLoader::num_items): that share of
    /// the images of each batch, with its own epoch count. So the loaders of several devices
    /// together make the batches that one alone would.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let items = self.num_items();
        let share = |at: usize| {
            let within = self.part.len() as u128 * at.min(items) as u128 / items as u128;
            self.part.start + within as usize
        };
        Arc::new(Self {
            dataset: self.dataset.clone(),
            settings: self.settings.clone(),
            part: share(start)..share(end),
            batches_per_epoch: self.batches_per_epoch,
            next: Arc::new(AtomicU64::new(self.next.load(Ordering::Relaxed))),
            device: self.device.clone(),
        })
    }
}

/// All images of a dataset, in order and unchanged but for size and normalisation; the last batch
/// may be smaller.
pub struct EvalLoader {
    dataset: ImageDataset,
    range: Range<usize>,
    batch_size: usize,
    image_size: [u32; 2],
    normalization: Normalization,
    workers: usize,
    device: Device,
}

impl EvalLoader {
    /// A loader on the default device.
    ///
    /// # Panics
    ///
    /// If the batch size is 0.
    pub fn new(
        dataset: ImageDataset,
        batch_size: usize,
        image_size: [u32; 2],
        normalization: Normalization,
        workers: usize,
    ) -> Self {
        assert!(batch_size > 0, "a batch size above 0");
        Self {
            range: 0..dataset.len(),
            dataset,
            batch_size,
            image_size,
            normalization,
            workers,
            device: Device::default(),
        }
    }

    fn part(&self, range: Range<usize>, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            dataset: self.dataset.clone(),
            range,
            batch_size: self.batch_size,
            image_size: self.image_size,
            normalization: self.normalization,
            workers: self.workers,
            device: device.clone(),
        })
    }
}

impl DataLoader<Batch> for EvalLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let (dataset, range) = (self.dataset.clone(), self.range.clone());
        let (batch_size, size) = (self.batch_size, self.image_size);
        let normalization = self.normalization;
        let count = range.len().div_ceil(batch_size) as u64;
        let batches = Prefetch::new(0..count, self.workers, move |number| {
            let start = range.start + number as usize * batch_size;
            let indices: Vec<usize> = (start..range.end.min(start + batch_size)).collect();
            let place = Place {
                number,
                part: 0..indices.len(),
                whole: indices.len(),
            };
            host_batch(&dataset, indices, size, place, |_, image, out| {
                eval_image(image, size, &normalization, out);
            })
        });
        Box::new(BatchIterator {
            batches,
            device: self.device.clone(),
            batch_size,
            processed: 0,
            total: self.num_items(),
        })
    }

    fn num_items(&self) -> usize {
        self.range.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        self.part(self.range.clone(), device)
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let at = |place: usize| self.range.end.min(self.range.start + place);
        self.part(at(start)..at(end), &self.device)
    }
}

/// Decodes the images at `indices`, and has each written to its place by
/// `write(place in the batch, image, out)`.
fn host_batch(
    dataset: &ImageDataset,
    indices: Vec<usize>,
    size: [u32; 2],
    place: Place,
    write: impl Fn(usize, &crate::RgbImage, &mut [f32]),
) -> Result<HostBatch, DataError> {
    let size = size.map(|side| side as usize);
    let length = 3 * size[0] * size[1];
    let mut pixels = vec![0.0; indices.len() * length];
    for (i, out) in pixels.chunks_exact_mut(length).enumerate() {
        write(i, &*dataset.pixels(indices[i])?, out);
    }
    Ok(HostBatch {
        pixels,
        size,
        targets: indices.iter().map(|&index| dataset.label(index)).collect(),
        indices,
        place,
    })
}

#[cfg(test)]
mod tests;
