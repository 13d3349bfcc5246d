//! Tokens that come back to their images.

use std::cmp::Reverse;

use super::Sequences;

impl Sequences {
    /// The same rows, those at these places (image of the batch, position) seen again. For each row where it comes from: a row
    /// of before, or `first` and onwards for the places, in their order.
    pub(crate) fn show(&self, places: &[(usize, usize)], first: usize) -> (Self, Vec<usize>) {
        let mut rows: Vec<usize> = (0..self.num_rows()).collect();
        let mut shown = self.clone();
        let slots = self.slot_of_each_image();
        for (source, &(image, position)) in places.iter().enumerate() {
            let row = slots[image].and_then(|slot| {
                let mut own = self.rows(slot);
                own.find(|&row| self.positions[row] == position)
            });
            if let Some(row) = row {
                rows[row] = first + source;
                shown.visible[row] = true;
            }
        }
        (shown, rows)
    }

    /// As [`show`](Self::show), but the rows are not there yet.
    pub(crate) fn insert(&self, places: &[(usize, usize)], first: usize) -> (Self, Vec<usize>) {
        let slots = self.slot_of_each_image();
        // Per slot, the position of each row and where it comes from.
        let mut of_slot: Vec<Vec<(usize, usize)>> = (0..self.batch())
            .map(|slot| {
                let rows = self.rows(slot);
                rows.map(|row| (self.positions[row], row)).collect()
            })
            .collect();
        for (source, &(image, position)) in places.iter().enumerate() {
            if let Some(slot) = slots[image] {
                of_slot[slot].push((position, first + source));
            }
        }
        of_slot.iter_mut().for_each(|rows| rows.sort_unstable());
        let mut order: Vec<usize> = (0..self.batch()).collect();
        order.sort_by_key(|&slot| Reverse(of_slot[slot].len()));
        let (mut starts, mut positions, mut rows) = (vec![0], Vec::new(), Vec::new());
        for &slot in &order {
            positions.extend(of_slot[slot].iter().map(|&(position, _)| position));
            rows.extend(of_slot[slot].iter().map(|&(_, row)| row));
            starts.push(rows.len());
        }
        let known = |row: usize| row < first;
        let sizes = self.sizes.as_ref().map(|sizes| {
            let sizes = rows
                .iter()
                .map(|&row| if known(row) { sizes[row] } else { 1.0 });
            sizes.collect()
        });
        let inserted = Self {
            images: order.iter().map(|&slot| self.images[slot]).collect(),
            visible: rows
                .iter()
                .map(|&row| !known(row) || self.visible[row])
                .collect(),
            starts,
            positions,
            sizes,
            ..self.clone()
        };
        (inserted, rows)
    }

    /// The rows that come from `first` and onwards count for so many patches.
    pub(crate) fn with_sizes(mut self, rows: &[usize], first: usize, counts: &[f32]) -> Self {
        if self.sizes.is_none() && counts.iter().any(|&count| count != 1.0) {
            self.sizes = Some(vec![1.0; rows.len()]);
        }
        if let Some(sizes) = &mut self.sizes {
            for (size, &row) in sizes.iter_mut().zip(rows) {
                if row >= first {
                    *size = counts[row - first];
                }
            }
        }
        self
    }

    fn slot_of_each_image(&self) -> Vec<Option<usize>> {
        let mut slots = vec![None; self.num_images()];
        for (slot, image) in self.open_slots() {
            slots[image] = Some(slot);
        }
        slots
    }
}
