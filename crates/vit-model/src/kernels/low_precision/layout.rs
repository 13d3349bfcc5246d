//! How the factors of a product lie in memory, the same for every instruction set.
//!
//! Rows are cut into lines of 64 bytes, 32 bfloat16 or 64 integers. A *tile* is one line of up to sixteen rows, as the
//! matrix extension (AMX) reads it; rows are spread evenly over as few tiles as hold them. The weight lies in *panels* of 32
//! columns; where rows have a line, a panel has 2 KiB: for sixteen columns and then for sixteen more, sixteen
//! lines of which each holds two (four) values, one below the other, of each column.

/// Bytes of a line.
pub(super) const LINE: usize = 64;
/// Lines of a tile.
pub(super) const TALLEST: usize = 16;
/// Bytes from a tile to the next.
pub(super) const TILE: usize = LINE * TALLEST;
/// Columns of a panel.
pub(super) const PANEL: usize = 32;

/// What the factors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// bfloat16, summed as 32-bit floats.
    Bf16,
    /// 8-bit integers, summed as 32-bit integers.
    Int8,
}

impl Kind {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Lines of a row of so many values.
    pub fn lines(self, values: usize) -> usize {
        (values * self.size()).div_ceil(LINE)
    }
}

/// How rows are spread over tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub count: usize,
    /// Rows of each tile but the last.
    pub height: usize,
    pub tiles: usize,
}

impl Rows {
    pub fn new(count: usize) -> Self {
        let tiles = count.div_ceil(TALLEST).max(1);
        Self {
            count,
            height: count.div_ceil(tiles).max(1),
            tiles,
        }
    }

    /// Rows of a tile.
    pub fn of(self, tile: usize) -> usize {
        self.height.min(self.count - tile * self.height)
    }

    /// The tile that a row stands in, and where.
    pub fn place(self, row: usize) -> (usize, usize) {
        (row / self.height, row % self.height)
    }
}

/// Memory that starts at a line.
#[derive(Default)]
pub(super) struct Lines(Vec<[u8; LINE]>, usize);

impl Lines {
    /// Zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let lines = vec![[0; LINE]; bytes.div_ceil(LINE) + 1];
        let first = lines.as_ptr().cast::<u8>().align_offset(LINE);
        Self(lines, first)
    }
    /// Becomes as large as that, at least; what it holds is anybody's guess.
    pub fn hold(&mut self, bytes: usize) {
        if self.0.len() < bytes.div_ceil(LINE) + 1 {
            *self = Self::zeroed(bytes);
        }
    }
    pub fn start(&self) -> *const u8 {
        self.0.as_ptr().cast::<u8>().wrapping_add(self.1)
    }
    pub fn start_mut(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast::<u8>().wrapping_add(self.1)
    }
}

/// A panel of the right factor.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub start: *const u8,
    /// What the sums of its columns start from, where 128 was added to the integers of the left factor.
    pub shifts: *const i32,
}

/// The left factor, wherever it lies.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub start: *const u8,
    pub rows: Rows,
    /// Bytes from a row to the next in the same tile.
    pub row_stride: usize,
    /// Bytes from a tile to that of the rows below.
    pub tile_stride: usize,
    /// Bytes from a tile to that of the next lines.
    pub line_stride: usize,
    pub lines: usize,
}

impl Left {
    /// Rows that are cut into tiles, those of a row of tiles side by side.
    pub fn tiled(start: *const u8, rows: Rows, lines: usize) -> Self {
        Self {
            start,
            rows,
            row_stride: LINE,
            tile_stride: lines * TILE,
            line_stride: TILE,
            lines,
        }
    }

    /// Rows one below the other.
    pub fn plain(start: *const u8, rows: Rows, lines: usize, row_stride: usize) -> Self {
        Self {
            start,
            rows,
            row_stride,
            tile_stride: rows.height * row_stride,
            line_stride: LINE,
            lines,
        }
    }
}
