//! Where panels and captions stand.

/// Longer side of each panel, in pixels, at least.
const PANEL: u32 = 280;
/// Panels in a row, at most.
const COLUMNS: usize = 4;
/// Between panels, and around them.
const GAP: u32 = 16;
/// Above each panel: three lines of text.
const CAPTION: u32 = 67;
/// Height of a line below all panels.
pub(super) const LINE: u32 = 24;

/// Panels in rows, all lengths in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sheet {
    /// Patches of an image, down and across.
    pub grid: [usize; 2],
    /// Side of a patch.
    pub patch: u32,
    panels: usize,
    columns: usize,
    /// Lines of text below the panels.
    lines: u32,
}

impl Sheet {
    /// For so many panels and lines of text below them.
    pub fn new(grid: [usize; 2], panels: usize, lines: usize) -> Self {
        let [down, across] = grid;
        // No row is much shorter than the others.
        let columns = panels.div_ceil(panels.div_ceil(COLUMNS));
        Self {
            grid,
            patch: PANEL.div_ceil(down.max(across) as u32),
            panels,
            columns,
            lines: lines as u32,
        }
    }

    /// Width of the whole with so many panels.
    pub fn width(grid: [usize; 2], panels: usize) -> u32 {
        Self::new(grid, panels, 0).size()[1]
    }

    /// Height and width of a panel.
    pub fn panel(&self) -> [u32; 2] {
        self.grid.map(|patches| self.patch * patches as u32)
    }

    /// Width of a panel and its caption.
    pub fn cell_width(&self) -> u32 {
        self.panel()[1].max(PANEL)
    }

    /// Height and width of the whole, both even.
    pub fn size(&self) -> [u32; 2] {
        let rows = self.panels.div_ceil(self.columns) as u32;
        let height = rows * (CAPTION + self.panel()[0] + GAP) + GAP + self.lines * LINE;
        let width = self.columns as u32 * (self.cell_width() + GAP) + GAP;
        [height, width].map(|length| length.next_multiple_of(2))
    }

    /// The left upper corner of a panel.
    pub fn corner(&self, panel: usize) -> (u32, u32) {
        let (row, column) = (panel / self.columns, panel % self.columns);
        let x = GAP + column as u32 * (self.cell_width() + GAP);
        let y = CAPTION + row as u32 * (CAPTION + self.panel()[0] + GAP) + GAP / 2;
        (x, y)
    }

    /// The left end of the baseline of a line below the panels.
    pub fn below(&self, line: usize) -> (u32, u32) {
        let [height, _] = self.size();
        (
            GAP,
            height - GAP / 2 - 4 - (self.lines - 1 - line as u32) * LINE,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_panels_stand_in_rows_of_nearly_equal_length() {
        let columns = |panels| Sheet::new([14, 14], panels, 1).columns;
        assert_eq!([1, 3, 4, 5, 6, 7, 8].map(columns), [1, 3, 4, 3, 3, 4, 4]);
    }

    #[test]
    fn panels_lie_within_the_sheet_and_apart() {
        for grid in [[14, 14], [8, 8], [7, 14], [14, 7]] {
            let sheet = Sheet::new(grid, 8, 2);
            let ([height, width], panel) = (sheet.size(), sheet.panel());
            for index in 0..8 {
                let (x, y) = sheet.corner(index);
                assert!(x + panel[1] <= width && y + panel[0] <= height - 2 * LINE);
                assert!(y >= CAPTION);
            }
            assert!(sheet.corner(1).0 >= sheet.corner(0).0 + panel[1]);
            assert!(sheet.corner(4).1 >= sheet.corner(0).1 + panel[0] + CAPTION);
        }
    }
}
