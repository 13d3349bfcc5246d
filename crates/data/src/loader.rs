//! Loaders that make the same batches for any number of threads, and from any point on.

use crate::batch::{Batch, BatchIterator, HostBatch, Normalize, Place};
use crate::corruption::Stream;
use crate::normalize::{looked_up, takes_bytes, uploaded};
use crate::order::Order;
use crate::prefetch::{AHEAD, Prefetch};
use crate::seed::mix_seed;
use crate::transform::{
    EvalTransform, Normalization, Table, TrainTransform, UNCHANGED, push_eval_image,
    push_train_image,
};
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

    /// Batches that so many workers may have made before they are asked for, one in each one's hands counted.
    pub fn ahead(workers: usize) -> usize {
        workers * (AHEAD + 1)
    }

    fn epoch_end(&self, batch: u64) -> u64 {
        (batch / self.batches_per_epoch + 1) * self.batches_per_epoch
    }

    /// The batches from `start` to the end of its epoch, their bytes turned by `table` and then by `normalize`.
    fn epoch<T: Copy + Send + 'static>(
        &self,
        start: u64,
        table: Table<T>,
        normalize: Normalize<T>,
    ) -> BatchIterator<T> {
        let (dataset, settings) = (self.dataset.clone(), self.settings.clone());
        let part = self.part.clone();
        let batch_size = part.len();
        let mut order = Order::new(dataset.len(), settings.seed);
        let numbers = start..self.epoch_end(start);
        let batches = Prefetch::new(numbers, settings.workers, move |number| {
            Self::make(&dataset, &settings, &table, &part, &mut order, number)
        });
        BatchIterator {
            batches,
            normalize,
            device: self.device.clone(),
            batch_size,
            processed: (start % self.batches_per_epoch) as usize * batch_size,
            total: self.num_items(),
        }
    }

    /// Makes that part of batch `number`, given its order.
    fn make<T: Copy>(
        dataset: &ImageDataset,
        settings: &LoaderSettings,
        table: &Table<T>,
        part: &Range<usize>,
        order: &mut Order,
        number: u64,
    ) -> Result<HostBatch<T>, DataError> {
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
            table,
            |i| (Stream::learned(settings.seed), images[i].1),
            |i, image, out| {
                let seed = mix_seed(&[settings.seed, TRANSFORM, images[i].1]);
                let (size, transform) = (settings.image_size, &settings.transform);
                push_train_image(image, size, transform, table, seed, out);
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
        let (normalization, device) = (&self.settings.normalization, &self.device);
        if takes_bytes(device) {
            let normalize = looked_up(normalization, device);
            Box::new(self.epoch(start, UNCHANGED, normalize))
        } else {
            Box::new(self.epoch(start, normalization.table(), uploaded(device)))
        }
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
    transform: EvalTransform,
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
            transform: EvalTransform::default(),
            normalization,
            workers,
            device: Device::default(),
        }
    }

    /// The same with another way to size the images.
    pub fn with_transform(self, transform: EvalTransform) -> Self {
        Self { transform, ..self }
    }

    /// All batches, their bytes turned by `table` and then by `normalize`.
    fn batches<T: Copy + Send + 'static>(
        &self,
        table: Table<T>,
        normalize: Normalize<T>,
    ) -> BatchIterator<T> {
        let (dataset, range) = (self.dataset.clone(), self.range.clone());
        let (batch_size, size, transform) = (self.batch_size, self.image_size, self.transform);
        let count = range.len().div_ceil(batch_size) as u64;
        let batches = Prefetch::new(0..count, self.workers, move |number| {
            let start = range.start + number as usize * batch_size;
            let indices: Vec<usize> = (start..range.end.min(start + batch_size)).collect();
            let place = Place {
                number,
                part: 0..indices.len(),
                whole: indices.len(),
            };
            let first = indices[0];
            host_batch(
                &dataset,
                indices,
                size,
                place,
                &table,
                |i| (Stream::MEASURED, dataset.number(first + i)),
                |_, image, out| push_eval_image(image, size, &transform, &table, out),
            )
        });
        BatchIterator {
            batches,
            normalize,
            device: self.device.clone(),
            batch_size,
            processed: 0,
            total: self.num_items(),
        }
    }

    fn part(&self, range: Range<usize>, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(Self {
            dataset: self.dataset.clone(),
            range,
            batch_size: self.batch_size,
            image_size: self.image_size,
            transform: self.transform,
            normalization: self.normalization,
            workers: self.workers,
            device: device.clone(),
        })
    }
}

impl DataLoader<Batch> for EvalLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let (normalization, device) = (&self.normalization, &self.device);
        if takes_bytes(device) {
            Box::new(self.batches(UNCHANGED, looked_up(normalization, device)))
        } else {
            Box::new(self.batches(normalization.table(), uploaded(device)))
        }
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

/// Decodes the images at `indices`, and has each added to the batch by
/// `push(place in the batch, image, pixels)`; `numbered(place in the batch)` says by what its corruption is drawn.
fn host_batch<T: Copy>(
    dataset: &ImageDataset,
    indices: Vec<usize>,
    size: [u32; 2],
    place: Place,
    table: &Table<T>,
    numbered: impl Fn(usize) -> (Stream, u64),
    push: impl Fn(usize, &crate::RgbImage, &mut Vec<T>),
) -> Result<HostBatch<T>, DataError> {
    let size = size.map(|side| side as usize);
    let mut pixels = Vec::with_capacity(indices.len() * 3 * size[0] * size[1]);
    for (i, &index) in indices.iter().enumerate() {
        let start = pixels.len();
        push(i, &*dataset.pixels(index)?, &mut pixels);
        if let Some(corrupted) = dataset.corrupted {
            let (stream, number) = numbered(i);
            let draw = corrupted.draw(stream, number);
            let planes = &mut pixels[start..];
            corrupted.apply(planes, size, draw, table, dataset.len(), |places| {
                let other = (index + places) % dataset.len();
                let mut planes = Vec::with_capacity(3 * size[0] * size[1]);
                push(i, &*dataset.pixels(other)?, &mut planes);
                Ok(planes)
            })?;
        }
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
