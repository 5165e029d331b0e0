/* The pass by vectors of WIDTH floats. Included once for each kind of processor, with WIDTH, TARGET and NAMED, which it
 * undefines. */

#define OUTPUTS 2             /* of a tile */
#define TILE_ROWS (WIDTH / 2) /* that share a weight while it is in a register; a tile's sums fill a vector */
#define BLOCK 32              /* outputs whose weights stay in the cache while all rows pass */
#define COLUMNS 768           /* of a tile's rows, which stay in the first-level cache */

/* Said outright: a compiler left to itself may fuse in one tile and not in another, where a row's bits would differ. */
#if defined(__x86_64__) && WIDTH == 16
#define FUSED(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#elif defined(__x86_64__)
#define FUSED(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#else
#define FUSED(a, b, c) ((a) * (b) + (c))
#endif

typedef float NAMED(vec) __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
#define vec NAMED(vec)

TARGET static inline __attribute__((always_inline)) vec NAMED(fold)(vec a, vec b) {
#if WIDTH == 16
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#endif
}

TARGET static inline float NAMED(dot)(const float *a, const float *b, int64_t size) {
    vec sum = {0};
    int64_t i = 0;
    for (; i + WIDTH <= size; i += WIDTH) sum = FUSED(*(const vec *)(a + i), *(const vec *)(b + i), sum);
#pragma GCC unroll 4
    for (int width = WIDTH; width > 1; width /= 2) sum = NAMED(fold)(sum, sum);
    float total = sum[0];
    for (; i < size; i++) total = fmaf(a[i], b[i], total);
    return total;
}

/* A few rows times one or two outputs, all sums in registers. */
TARGET static inline __attribute__((always_inline)) void NAMED(tile)(
    const float *x, const float *weight, int64_t inputs, int64_t columns, int begun, float *y, int64_t stride,
    const int rows, const int outputs) {
    vec sums[TILE_ROWS * OUTPUTS];
#pragma GCC unroll 16
    for (int k = 0; k < TILE_ROWS * OUTPUTS; k++) sums[k] = (vec){0};
    int64_t i = 0;
    for (; i + WIDTH <= columns; i += WIDTH) {
        vec part[OUTPUTS];
#pragma GCC unroll 2
        for (int o = 0; o < outputs; o++) {
            part[o] = *(const vec *)(weight + o * inputs + i);
            __builtin_prefetch(weight + (o + OUTPUTS) * inputs + i);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vec here = *(const vec *)(x + r * inputs + i);
#pragma GCC unroll 2
            for (int o = 0; o < outputs; o++) sums[r * OUTPUTS + o] = FUSED(here, part[o], sums[r * OUTPUTS + o]);
        }
    }
    /* Vectors are folded by pairs until each place holds the whole sum of one of them; those of rows that are not there
     * too, so that every tile adds up in the same order. */
#pragma GCC unroll 4
    for (int count = WIDTH; count > 1; count /= 2)
#pragma GCC unroll 8
        for (int k = 0; k < count / 2; k++) sums[k] = NAMED(fold)(sums[2 * k], sums[2 * k + 1]);
    float total[WIDTH];
    *(vec *)total = sums[0];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int o = 0; o < outputs; o++) {
            float sum = total[r * OUTPUTS + o];
            for (int64_t j = i; j < columns; j++) sum = fmaf(x[r * inputs + j], weight[o * inputs + j], sum);
            y[r * stride + o] = begun ? y[r * stride + o] + sum : sum;
        }
}

/* A thread's part of y = W x + b for all rows; `mine` says which outputs. */
TARGET static void NAMED(product)(
    const float *x, int64_t rows, int64_t inputs, struct linear linear, float *y, int64_t outputs, struct range mine) {
    for (int64_t block = mine.from; block < mine.to; block += BLOCK) {
        int64_t end = mine.to < block + BLOCK ? mine.to : block + BLOCK;
        for (int64_t column = 0; column < inputs; column += COLUMNS) {
            int64_t columns = inputs - column < COLUMNS ? inputs - column : COLUMNS;
            for (int64_t row = 0; row < rows; row += TILE_ROWS)
                for (int64_t output = block; output < end; output += OUTPUTS) {
                    const float *xs = x + row * inputs + column, *ws = linear.weight + output * inputs + column;
                    float *ys = y + row * outputs + output;
#define TILE(n)                                                                                                        \
    case n:                                                                                                            \
        if (end - output > 1) NAMED(tile)(xs, ws, inputs, columns, column > 0, ys, outputs, n, 2);                     \
        else NAMED(tile)(xs, ws, inputs, columns, column > 0, ys, outputs, n, 1);                                      \
        break;
                    switch (rows - row < TILE_ROWS ? rows - row : TILE_ROWS) {
                        TILE(1) TILE(2) TILE(3) TILE(4)
#if WIDTH == 16
                        TILE(5) TILE(6) TILE(7) TILE(8)
#endif
                    }
#undef TILE
                }
        }
    }
    if (linear.bias)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t output = mine.from; output < mine.to; output++)
                y[row * outputs + output] += linear.bias[output];
}

TARGET static void NAMED(normalize)(const float *x, const float *weight, float epsilon, float *y, int64_t size) {
    float scale = 1 / sqrtf(NAMED(dot)(x, x, size) / size + epsilon);
    for (int64_t i = 0; i < size; i++) y[i] = weight[i] * (x[i] * scale);
}

/* What the query heads of one row that share a key head make of all tokens so far, the new one included. */
TARGET static void NAMED(attend)(
    const struct team *team, const struct layer *layer, int64_t row, int64_t key_head, float *scores) {
    const struct decoder *decoder = team->decoder;
    const struct batch *batch = team->batch;
    int64_t size = decoder->head_size, length = batch->lengths[row], group = decoder->query_heads / decoder->key_heads;
    int64_t place = (batch->slots[row] * decoder->key_heads + key_head) * decoder->room * size;
    float *keys = layer->keys + place, *values = layer->values + place;
    float *key = keys + length * size, *value = values + length * size;
    const float *cosines = batch->cosines + row * size, *sines = batch->sines + row * size;

    memcpy(key, team->keys + (row * decoder->key_heads + key_head) * size, sizeof(float) * size);
    memcpy(value, team->values + (row * decoder->key_heads + key_head) * size, sizeof(float) * size);
    if (layer->key_norm) NAMED(normalize)(key, layer->key_norm, decoder->epsilon, key, size);
    rotate(key, cosines, sines, size);
    for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
        float *query = team->queries + (row * decoder->query_heads + head) * size;
        float *attended = team->attended + (row * decoder->query_heads + head) * size;
        if (layer->query_norm) NAMED(normalize)(query, layer->query_norm, decoder->epsilon, query, size);
        rotate(query, cosines, sines, size);
        float highest = -INFINITY, total = 0;
        for (int64_t token = 0; token <= length; token++) {
            scores[token] = NAMED(dot)(query, keys + token * size, size) * decoder->attention_scale;
            if (scores[token] > highest) highest = scores[token];
        }
        for (int64_t token = 0; token <= length; token++) total += scores[token] = expf(scores[token] - highest);
        memset(attended, 0, sizeof(float) * size);
        for (int64_t token = 0; token <= length; token++) {
            float share = scores[token] / total;
            const float *seen = values + token * size;
            int64_t i = 0;
            for (; i + WIDTH <= size; i += WIDTH) *(vec *)(attended + i) += share * *(const vec *)(seen + i);
            for (; i < size; i++) attended[i] += share * seen[i];
        }
    }
}

TARGET static void NAMED(normalize_rows)(const struct member *me, const float *weight) {
    int64_t hidden = me->team->decoder->hidden;
    for (int64_t row = 0; row < me->team->batch->rows; row++) {
        const float *x = me->team->batch->stream + row * hidden;
        NAMED(normalize)(x, weight, me->team->decoder->epsilon, me->normed + row * hidden, hidden);
    }
}

/* A thread's part of what a layer adds to the stream. */
TARGET static void NAMED(add_product)(const struct member *me, const float *x, int64_t inputs, struct linear linear) {
    int64_t hidden = me->team->decoder->hidden, rows = me->team->batch->rows;
    struct range mine = part_of(me, hidden);
    NAMED(product)(x, rows, inputs, linear, me->normed, hidden, mine);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = row * hidden + mine.from; i < row * hidden + mine.to; i++)
            me->team->batch->stream[i] += me->normed[i];
}

/* One thread's work; all of them meet before one reads what another has made. */
TARGET static void *NAMED(run)(void *argument) {
    struct member *me = argument;
    struct team *team = me->team;
    while (!atomic_load(&team->size)) sched_yield();
    const struct decoder *decoder = team->decoder;
    int64_t rows = team->batch->rows, hidden = decoder->hidden, inner = decoder->inner;
    int64_t wide = decoder->query_heads * decoder->head_size, narrow = decoder->key_heads * decoder->head_size;
    struct range units = part_of(me, rows * decoder->key_heads), mine = part_of(me, inner);

    for (const struct layer *layer = decoder->layers; layer < decoder->layers + decoder->num_layers; layer++) {
        NAMED(normalize_rows)(me, layer->norm_before_attention);
        NAMED(product)(me->normed, rows, hidden, layer->query, team->queries, wide, part_of(me, wide));
        NAMED(product)(me->normed, rows, hidden, layer->key, team->keys, narrow, part_of(me, narrow));
        NAMED(product)(me->normed, rows, hidden, layer->value, team->values, narrow, part_of(me, narrow));
        meet(team);
        for (int64_t unit = units.from; unit < units.to; unit++)
            NAMED(attend)(team, layer, unit / decoder->key_heads, unit % decoder->key_heads, me->scores);
        meet(team);
        NAMED(add_product)(me, team->attended, wide, layer->output);
        meet(team);
        NAMED(normalize_rows)(me, layer->norm_before_mlp);
        NAMED(product)(me->normed, rows, hidden, layer->gate, team->gate, inner, mine);
        NAMED(product)(me->normed, rows, hidden, layer->up, team->inner, inner, mine);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = row * inner + mine.from; i < row * inner + mine.to; i++)
                team->inner[i] *= team->gate[i] / (1 + expf(-team->gate[i]));
        meet(team);
        NAMED(add_product)(me, team->inner, inner, layer->down);
        meet(team);
    }
    NAMED(normalize_rows)(me, decoder->last_norm);
    struct range words = part_of(me, decoder->vocabulary);
    NAMED(product)(me->normed, rows, hidden, decoder->head, team->batch->logits, decoder->vocabulary, words);
    return NULL;
}

#undef vec
#undef FUSED
#undef OUTPUTS
#undef TILE_ROWS
#undef BLOCK
#undef COLUMNS
#undef WIDTH
#undef TARGET
#undef NAMED
