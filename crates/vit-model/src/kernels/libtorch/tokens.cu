// What a pruned pass with uniform counts does between its blocks, on an NVIDIA GPU. Compiled when first used, for one
// width of keys (WIDTH). Each kernel says what it computes; `decisions.rs` computes the same by tensor operations.
//
// Sums have a fixed order, and no atomics: the same input gives the same output, bit for bit.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#ifndef WARP
#define WARP 32
#endif
#define ALL_LANES 0xffffffffu
#define NONE __int_as_float(0xff800000)
// Of eight values for each lane of a warp.
#ifndef ROUNDS
#define ROUNDS 8
#endif
#define TILE 32
#define THREADS 128
#ifndef PARTS
#define PARTS 4
#endif

// As much as the launch asks for.
extern __shared__ int shared[];

struct F32 { float value; };
struct Bf16 { u16 bits; };
struct F16 { u16 bits; };

__device__ __forceinline__ float widen(F32 short_) { return short_.value; }
__device__ __forceinline__ float widen(Bf16 short_) { return __uint_as_float((u32)short_.bits << 16); }
__device__ __forceinline__ float widen(F16 short_) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(short_.bits));
    return wide;
}

__device__ __forceinline__ void narrow(float wide, F32 &out) { out.value = wide; }
// To the nearest, to even where two are as near. NaN stays NaN.
__device__ __forceinline__ void narrow(float wide, Bf16 &out) {
    u32 bits = __float_as_uint(wide);
    u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out.bits = wide != wide ? 0x7fc0 : (u16)rounded;
}
__device__ __forceinline__ void narrow(float wide, F16 &out) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(wide));
}

// Keys averaged over the heads, as unit vectors: [rows, 3 * hidden] to [rows, WIDTH]. One warp a row.
template <class T>
__device__ void unit_keys(const T *qkv, float *out, int rows, int heads) {
    int lane = threadIdx.x % WARP;
    int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    i64 hidden = (i64)heads * WIDTH;
    const T *keys = qkv + row * 3 * hidden + hidden;
    float means[(WIDTH + WARP - 1) / WARP];
    float squares = 0.0f;
    int index = 0;
    for (int column = lane; column < WIDTH; column += WARP, ++index) {
        float sum = 0.0f;
        for (int head = 0; head < heads; ++head) sum += widen(keys[head * WIDTH + column]);
        means[index] = sum / heads;
        squares += means[index] * means[index];
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, offset);
    float norm = fmaxf(sqrtf(squares), 1e-12f);
    index = 0;
    for (int column = lane; column < WIDTH; column += WARP, ++index) out[(i64)row * WIDTH + column] = means[index] / norm;
}

// Of every token at an even place after the prefix: the most similar one at an odd place, the first of equals. Each block
// looks for some seekers of an image; each of its PARTS reads another part of those that are looked at. keys [images,
// tokens, WIDTH]; similarity, into [images, tokens].
extern "C" __global__ void best_match(const float *keys, float *similarity, i64 *into, int tokens, int prefix) {
    __shared__ __align__(16) float tile[TILE][WIDTH];
    __shared__ float best_of[THREADS];
    __shared__ int place_of[THREADS];
    const float *image = keys + (i64)blockIdx.x * tokens * WIDTH;
    similarity += (i64)blockIdx.x * tokens;
    into += (i64)blockIdx.x * tokens;
    int first_found = prefix % 2 == 1 ? prefix : prefix + 1;
    int first_seeker = prefix % 2 == 0 ? prefix : prefix + 1;
    int found = (tokens - first_found + 1) / 2;
    int seekers = (tokens - first_seeker + 1) / 2;
    int own_seekers = blockDim.x / PARTS;
    int seeker = blockIdx.y * own_seekers + threadIdx.x % own_seekers;
    int part = threadIdx.x / own_seekers;
    bool seeks = seeker < seekers;
    int place = first_seeker + 2 * seeker;
    if (blockIdx.y == 0) {
        for (int idle = threadIdx.x; idle < tokens; idle += blockDim.x) {
            if (idle < prefix || idle % 2 == 1) {
                similarity[idle] = NONE;
                into[idle] = idle;
            }
        }
    }
    float own[WIDTH];
#pragma unroll
    for (int column = 0; column < WIDTH; ++column) own[column] = seeks ? image[(i64)place * WIDTH + column] : 0.0f;
    float best = NONE;
    int best_place = first_found;
    for (int first = 0; first < found; first += TILE) {
        __syncthreads();
        for (int index = threadIdx.x; index < TILE * WIDTH; index += blockDim.x) {
            int other = first + index / WIDTH;
            i64 row = first_found + 2 * other;
            tile[index / WIDTH][index % WIDTH] = other < found ? image[row * WIDTH + index % WIDTH] : 0.0f;
        }
        __syncthreads();
        int end = min(TILE, found - first);
        for (int other = part; other < end; other += PARTS) {
            // Four sums, so that none waits for the one before.
            float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int column = 0; column < WIDTH; ++column) sums[column % 4] += own[column] * tile[other][column];
            float product = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            if (product > best) {
                best = product;
                best_place = first_found + 2 * (first + other);
            }
        }
    }
    best_of[threadIdx.x] = best;
    place_of[threadIdx.x] = best_place;
    __syncthreads();
    if (part == 0 && seeks) {
        for (int other = threadIdx.x + own_seekers; other < (int)blockDim.x; other += own_seekers) {
            bool is_first = best_of[other] == best && place_of[other] < best_place;
            if (best_of[other] > best || is_first) {
                best = best_of[other];
                best_place = place_of[other];
            }
        }
        similarity[place] = best;
        into[place] = best_place;
    }
}

// The prefix and the `count` tokens after it that score highest, the first of equals. One block an image. scores,
// chosen [images, tokens]; shared: tokens floats.
extern "C" __global__ void highest(const float *scores, u8 *chosen, int tokens, int prefix, int count) {
    float *all = (float *)shared;
    scores += (i64)blockIdx.x * tokens;
    chosen += (i64)blockIdx.x * tokens;
    for (int place = threadIdx.x; place < tokens; place += blockDim.x) all[place] = scores[place];
    __syncthreads();
    for (int place = threadIdx.x; place < tokens; place += blockDim.x) {
        float own = all[place];
        int rank = 0;
        for (int other = prefix; other < tokens; ++other) {
            rank += all[other] > own || (all[other] == own && other < place);
        }
        chosen[place] = place < prefix || rank < count;
    }
}

// Where everything goes. One warp an image. keep [images, tokens], into the same or null; source [images, left]: which
// token stands in each place of the result; gone, target [images, removed]: which tokens go, and into which of those
// places (-1: lost). Shared: tokens ints.
extern "C" __global__ void plan(const u8 *keep, const i64 *into, int *source, int *gone, int *target, int tokens, int left, int removed) {
    int *places = shared;
    i64 image = blockIdx.x;
    keep += image * tokens;
    source += image * left;
    gone += image * removed;
    target += image * removed;
    int lane = threadIdx.x;
    u32 before = (1u << lane) - 1;
    int kept_so_far = 0, gone_so_far = 0;
    for (int start = 0; start < tokens; start += WARP) {
        int token = start + lane;
        bool inside = token < tokens;
        bool stays = inside && keep[token];
        bool goes = inside && !stays;
        u32 staying = __ballot_sync(ALL_LANES, stays);
        u32 going = __ballot_sync(ALL_LANES, goes);
        int place = kept_so_far + __popc(staying & before);
        int number = gone_so_far + __popc(going & before);
        if (inside) places[token] = stays && place < left ? place : -1;
        if (stays && place < left) source[place] = token;
        if (goes && number < removed) gone[number] = token;
        kept_so_far += __popc(staying);
        gone_so_far += __popc(going);
    }
    // Scores that are no numbers have no order, and fewer may stay than should.
    for (int place = kept_so_far + lane; place < left; place += WARP) source[place] = 0;
    for (int number = gone_so_far + lane; number < removed; number += WARP) gone[number] = 0;
    __syncwarp();
    for (int number = lane; number < removed; number += WARP) {
        bool is_real = number < gone_so_far;
        target[number] = is_real && into ? places[into[image * tokens + gone[number]]] : -1;
    }
}

template <class T, int COUNT> struct alignas(COUNT * sizeof(T)) Several { T each[COUNT]; };

// Each row of the result is the token that stays there, times its weight, and those that go into it, times theirs; with
// `mean`, divided by the sum of the weights, which is stored, and so is its logarithm. One block a row. A token is the sum
// of tokens and added, [images, count, hidden] (added: or null); weights [images, count], or null: 1; out [images, left,
// hidden]; sums [images, left]; logarithms [images, room], zeros behind `left`. Shared: removed ints. hidden is a multiple
// of 4.
template <class T>
__device__ void merge(const T *tokens, const T *added, const int *source, const int *gone, const int *target, const float *weights, T *out, float *sums, T *logarithms, int count, int left, int removed, int hidden, int room, int mean) {
    int *members = shared;
    __shared__ int number;
    i64 place = blockIdx.x, image = blockIdx.y;
    tokens += image * count * hidden;
    if (added) added += image * count * hidden;
    gone += image * removed;
    target += image * removed;
    if (threadIdx.x < WARP) {
        u32 before = (1u << threadIdx.x) - 1;
        int found = 0;
        for (int start = 0; start < removed; start += WARP) {
            int index = start + threadIdx.x;
            bool is_member = index < removed && target[index] == place;
            u32 bits = __ballot_sync(ALL_LANES, is_member);
            if (is_member) members[found + __popc(bits & before)] = gone[index];
            found += __popc(bits);
        }
        if (threadIdx.x == 0) number = found;
    }
    __syncthreads();
    int own = source[image * left + place];
    float own_weight = weights ? weights[image * count + own] : 1.0f;
    float sum = own_weight;
    for (int index = 0; index < number; ++index) sum += weights ? weights[image * count + members[index]] : 1.0f;
    float scale = mean ? 1.0f / sum : 1.0f;
    if (mean && threadIdx.x == 0) {
        sums[image * left + place] = sum;
        narrow(logf(sum), logarithms[image * room + place]);
        for (i64 behind = left + place; behind < room; behind += left) narrow(0.0f, logarithms[image * room + behind]);
    }
    T *row = out + (image * left + place) * hidden;
    for (int column = 4 * threadIdx.x; column < hidden; column += 4 * blockDim.x) {
        typedef Several<T, 4> Four;
        float values[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int index = -1; index < number; ++index) {
            int member = index < 0 ? own : members[index];
            float weight = index < 0 ? own_weight : weights ? weights[image * count + member] : 1.0f;
            i64 start = (i64)member * hidden + column;
            Four loaded = *(const Four *)(tokens + start);
            if (added) {
                Four more = *(const Four *)(added + start);
                for (int each = 0; each < 4; ++each) values[each] += weight * (widen(loaded.each[each]) + widen(more.each[each]));
            } else {
                for (int each = 0; each < 4; ++each) values[each] += weight * widen(loaded.each[each]);
            }
        }
        Four result;
        for (int each = 0; each < 4; ++each) narrow(values[each] * scale, result.each[each]);
        *(Four *)(row + column) = result;
    }
}

// Layer norm of each row, [rows, hidden]; where something is added to the rows, it is added first, and the sum is stored.
// One warp a row. hidden is a multiple of 8, and at most 8 * WARP * ROUNDS.
template <class T>
__device__ void add_norm(const T *tokens, const T *added, const float *gamma, const float *beta, T *sum, T *normed, int rows, int hidden, float epsilon) {
    typedef Several<T, 8> Eight;
    int lane = threadIdx.x % WARP;
    i64 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    float values[ROUNDS][8];
    float total = 0.0f;
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        int column = 8 * (round * WARP + lane);
        if (column < hidden) {
            Eight loaded = *(const Eight *)(tokens + row * hidden + column);
            for (int each = 0; each < 8; ++each) values[round][each] = widen(loaded.each[each]);
            if (added) {
                Eight more = *(const Eight *)(added + row * hidden + column);
                for (int each = 0; each < 8; ++each) {
                    narrow(values[round][each] + widen(more.each[each]), loaded.each[each]);
                    values[round][each] = widen(loaded.each[each]);
                }
                *(Eight *)(sum + row * hidden + column) = loaded;
            }
            for (int each = 0; each < 8; ++each) total += values[round][each];
        }
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) total += __shfl_xor_sync(ALL_LANES, total, offset);
    float mean = total / hidden;
    float squares = 0.0f;
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        if (8 * (round * WARP + lane) < hidden) {
            for (int each = 0; each < 8; ++each) {
                values[round][each] -= mean;
                squares += values[round][each] * values[round][each];
            }
        }
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, offset);
    float scale = 1.0f / sqrtf(squares / hidden + epsilon);
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        int column = 8 * (round * WARP + lane);
        if (column < hidden) {
            Eight result;
            for (int each = 0; each < 8; ++each) {
                narrow(values[round][each] * scale * gamma[column + each] + beta[column + each], result.each[each]);
            }
            *(Eight *)(normed + row * hidden + column) = result;
        }
    }
}

#define OF(NAME, T)                                                                                                    \
    extern "C" __global__ void unit_keys_##NAME(const T *qkv, float *out, int rows, int heads) {                      \
        unit_keys<T>(qkv, out, rows, heads);                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void merge_##NAME(                                                                          \
        const T *tokens, const T *added, const int *source, const int *gone, const int *target, const float *weights, \
        T *out, float *sums, T *logarithms, int count, int left, int removed, int hidden, int room, int mean) {       \
        merge<T>(tokens, added, source, gone, target, weights, out, sums, logarithms, count, left, removed, hidden,   \
                 room, mean);                                                                                          \
    }                                                                                                                  \
    extern "C" __global__ void add_norm_##NAME(const T *tokens, const T *added, const float *gamma,                   \
                                               const float *beta, T *sum, T *normed, int rows, int hidden,            \
                                               float epsilon) {                                                       \
        add_norm<T>(tokens, added, gamma, beta, sum, normed, rows, hidden, epsilon);                                  \
    }

OF(f32, F32)
OF(bf16, Bf16)
OF(f16, F16)
