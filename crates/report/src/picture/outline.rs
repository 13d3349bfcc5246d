//! Areas of patches and their outlines, as paths of an SVG.

use std::fmt::Write;

/// Some of a panel's patches.
pub(crate) struct Area<'a> {
    /// Patches, down and across.
    pub grid: [usize; 2],
    /// Side of a patch, in pixels.
    pub patch: u32,
    /// The panel's left upper corner.
    pub corner: (u32, u32),
    /// Is this patch one of them?
    pub holds: &'a dyn Fn(usize) -> bool,
}

impl Area<'_> {
    fn patches(&self) -> impl Iterator<Item = (usize, usize)> {
        let [down, across] = self.grid;
        let places = (0..down).flat_map(move |row| (0..across).map(move |column| (row, column)));
        places.filter(move |&(row, column)| (self.holds)(row * across + column))
    }

    fn corner_of(&self, (row, column): (usize, usize)) -> (f32, f32) {
        let at = |start: u32, place: usize| (start + place as u32 * self.patch) as f32;
        (at(self.corner.0, column), at(self.corner.1, row))
    }

    /// Its patches: neighbours in a row are one piece.
    pub fn filled(&self) -> String {
        let mut path = String::new();
        let mut pieces: Vec<((usize, usize), u32)> = Vec::new();
        for (row, column) in self.patches() {
            match pieces.last_mut() {
                Some(((of, start), length))
                    if *of == row && *start + *length as usize == column =>
                {
                    *length += 1
                }
                _ => pieces.push(((row, column), 1)),
            }
        }
        for (place, length) in pieces {
            let ((x, y), side, length) = (self.corner_of(place), self.patch, length * self.patch);
            let _ = write!(path, "M{x} {y}h{length}v{side}h-{length}z");
        }
        path
    }

    /// Slanting lines over its patches, which go on from one patch to the next.
    pub fn hatched(&self) -> String {
        let mut path = String::new();
        let side = self.patch as f32;
        let half = side / 2.0;
        for place in self.patches() {
            let (x, y) = self.corner_of(place);
            for (from, to) in [
                ((0.0, half), (half, 0.0)),
                ((0.0, side), (side, 0.0)),
                ((half, side), (side, half)),
            ] {
                let (from, to) = ((x + from.0, y + from.1), (x + to.0, y + to.1));
                let _ = write!(path, "M{} {}L{} {}", from.0, from.1, to.0, to.1);
            }
        }
        path
    }

    /// The border between its patches and the others, drawn `inset` pixels inside its patches.
    pub fn outlined(&self, inset: f32) -> String {
        let mut path = String::new();
        let [down, across] = self.grid;
        let holds = |row: Option<usize>, column: Option<usize>| {
            let inside = |&(row, column): &(usize, usize)| row < down && column < across;
            let place = row.zip(column).filter(inside);
            place.is_some_and(|(row, column)| (self.holds)(row * across + column))
        };
        for (row, column) in self.patches() {
            let (x, y) = self.corner_of((row, column));
            let side = self.patch as f32;
            // By rows and columns from here, one more than the way: 0 is back, 1 stays, 2 is on.
            let near = |down: usize, right: usize| {
                holds((row + down).checked_sub(1), (column + right).checked_sub(1))
            };
            // How far from the patch's corner a line ends, given its neighbour on that side and the one across the line:
            // lines of neighbours meet, also where the outline turns outwards.
            let end = |beside: bool, across: bool| match (beside, across) {
                (false, _) => inset,
                (true, false) => 0.0,
                (true, true) => -inset,
            };
            for (way, at) in [(0, inset), (2, side - inset)] {
                if !near(way, 1) {
                    let from = end(near(1, 0), near(way, 0));
                    let to = side - end(near(1, 2), near(way, 2));
                    let _ = write!(path, "M{} {}H{}", x + from, y + at, x + to);
                }
                if !near(1, way) {
                    let from = end(near(0, 1), near(0, way));
                    let to = side - end(near(2, 1), near(2, way));
                    let _ = write!(path, "M{} {}V{}", x + at, y + from, y + to);
                }
            }
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_one_outline_and_no_line_between_them() {
        let outline = |holds: &dyn Fn(usize) -> bool| {
            let area = Area {
                grid: [2, 2],
                patch: 10,
                corner: (0, 0),
                holds,
            };
            area.outlined(0.0).matches('M').count()
        };
        assert_eq!(outline(&|patch| patch == 0), 4);
        assert_eq!(outline(&|patch| patch < 2), 6);
        assert_eq!(outline(&|patch| patch == 0 || patch == 3), 8);
        assert_eq!(outline(&|_| true), 8);
        assert_eq!(outline(&|_| false), 0);
    }

    #[test]
    fn lines_within_an_area_meet_at_its_corners() {
        let holds = |patch: usize| patch != 1;
        let area = Area {
            grid: [2, 2],
            patch: 10,
            corner: (0, 0),
            holds: &holds,
        };
        let lines = area.outlined(2.0);
        // About the corner at (10, 10), where the outline turns outwards.
        assert!(lines.contains("M8 2V12"), "{lines}");
        assert!(lines.contains("M8 12H18"), "{lines}");
        // The lower edge goes on from one patch to the other.
        assert!(lines.contains("M2 18H10") && lines.contains("M10 18H18"));
    }
}
