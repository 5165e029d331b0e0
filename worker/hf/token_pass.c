/* One new token in each of a few rows through all layers of a decoder, fp32 on a CPU.
 *
 * What costs is reading the weights. Threads take equal parts of each layer's outputs and wait for one another awake,
 * five times a layer, instead of being woken for each of some twenty operations. A sum is made by one thread, in an
 * order of its own and by the same instructions in every tile, so that a row's bits depend neither on the number of
 * threads nor on the rows beside it.
 *
 * Knows nothing of Python: token_pass.py mirrors the structs up to `batch` and looks after their memory.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

struct linear {
    const float *weight; /* [outputs, inputs] */
    const float *bias;   /* [outputs], or none */
};

struct layer {
    const float *norm_before_attention, *norm_before_mlp; /* [hidden] */
    struct linear query, key, value, output, gate, up, down;
    const float *query_norm, *key_norm; /* [head_size], or none */
    float *keys, *values;               /* [slots, key_heads, room, head_size]: what each row has seen */
};

struct decoder {
    int64_t num_layers, hidden, inner, query_heads, key_heads, head_size, room, vocabulary;
    float epsilon, attention_scale;
    const struct layer *layers;
    const float *last_norm; /* [hidden] */
    struct linear head;
};

struct batch {
    int64_t rows;
    const int64_t *slots, *lengths; /* [rows]: where a row's keys and values are, and how many */
    const float *cosines, *sines;   /* [rows, head_size] */
    float *stream;                  /* [rows, hidden]: embeddings, to which the layers add */
    float *logits;                  /* [rows, vocabulary], to be filled */
};

/* What threads share; of the layer at hand, [rows, ...]. */
struct team {
    const struct decoder *decoder;
    const struct batch *batch;
    float *queries, *keys, *values, *attended, *gate, *inner;
    atomic_long size, arrived, round, asleep;
    pthread_mutex_t mutex;
    pthread_cond_t next_round;
};

struct member {
    struct team *team;
    int64_t number;
    float *normed; /* [rows, hidden] */
    float *scores; /* [room] */
};

struct range {
    int64_t from, to;
};

static struct range part_of(const struct member *me, int64_t size) {
    int64_t parts = atomic_load(&me->team->size);
    return (struct range){size * me->number / parts, size * (me->number + 1) / parts};
}

#define LOOKS 2000 /* at a barrier, some tens of microseconds, before a thread sleeps */

/* Wait for the others: awake, as it mostly takes less than being woken; asleep where one of them has been put aside. */
static void meet(struct team *team) {
    long round = atomic_load(&team->round), size = atomic_load(&team->size);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == size) {
        atomic_store(&team->arrived, 0);
        atomic_fetch_add(&team->round, 1);
        if (atomic_load(&team->asleep)) { /* whoever is not counted yet will see the new round before sleeping */
            pthread_mutex_lock(&team->mutex);
            pthread_cond_broadcast(&team->next_round);
            pthread_mutex_unlock(&team->mutex);
        }
        return;
    }
    for (int looks = 0; looks < LOOKS; looks++) {
        if (atomic_load(&team->round) != round) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->asleep, 1);
    while (atomic_load(&team->round) == round) pthread_cond_wait(&team->next_round, &team->mutex);
    atomic_fetch_sub(&team->asleep, 1);
    pthread_mutex_unlock(&team->mutex);
}

static void rotate(float *head, const float *cosines, const float *sines, int64_t size) {
    for (int64_t low = 0, high = size / 2; high < size; low++, high++) {
        float a = head[low], b = head[high];
        head[low] = a * cosines[low] - b * sines[low];
        head[high] = b * cosines[high] + a * sines[high];
    }
}

#if defined(__x86_64__)
#define WIDTH 16
#define TARGET __attribute__((target("avx512f,fma")))
#define NAMED(name) name##_avx512
#include "token_pass_vectors.h"
#define WIDTH 8
#define TARGET __attribute__((target("avx2,fma")))
#define NAMED(name) name##_avx2
#include "token_pass_vectors.h"
#else
#define WIDTH 8
#define TARGET
#define NAMED(name) name##_any
#include "token_pass_vectors.h"
#endif

typedef void *(*work)(void *);

/* By what this was compiled, and for structs of which sizes: one that is left over from other sources is not used. */
#if defined(__clang__)
const char *token_pass_compiler(void) { return __VERSION__; }
#else
const char *token_pass_compiler(void) { return "GCC " __VERSION__; }
#endif
int64_t token_pass_sizes(void) {
    int64_t layer = sizeof(struct layer), decoder = sizeof(struct decoder), batch = sizeof(struct batch);
    return (layer << 40) + (decoder << 20) + batch;
}

/* Floats in the widest vector of this processor that the pass is made for; 0: none. */
int64_t token_pass_width(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
#else
    return 8;
#endif
}

/* Fill the batch's logits and add to each row's keys and values. 1: memory is short, neither was done. */
int token_pass_run(const struct decoder *decoder, const struct batch *batch, int64_t threads, int64_t width) {
    int64_t rows = batch->rows, inner = rows * decoder->inner;
    int64_t wide = rows * decoder->query_heads * decoder->head_size;
    int64_t narrow = rows * decoder->key_heads * decoder->head_size;
    int64_t own = rows * decoder->hidden + decoder->room;
    float *memory = malloc(sizeof(float) * (2 * (wide + narrow + inner) + threads * own));
    struct member *members = malloc(sizeof(struct member) * threads);
    pthread_t *helpers = malloc(sizeof(pthread_t) * threads);
    int failed = !memory || !members || !helpers;
    if (!failed) {
        struct team team = {.decoder = decoder, .batch = batch};
        pthread_mutex_init(&team.mutex, NULL);
        pthread_cond_init(&team.next_round, NULL);
        float *next = memory;
        team.queries = next, next += wide;
        team.attended = next, next += wide;
        team.keys = next, next += narrow;
        team.values = next, next += narrow;
        team.gate = next, next += inner;
        team.inner = next, next += inner;
        for (int64_t number = 0; number < threads; number++, next += own)
            members[number] = (struct member){&team, number, next, next + rows * decoder->hidden};
#if defined(__x86_64__)
        work run = width == 16 ? run_avx512 : run_avx2;
#else
        work run = run_any;
        (void)width;
#endif
        int64_t size = 1;
        while (size < threads && !pthread_create(&helpers[size], NULL, run, &members[size])) size++;
        atomic_store(&team.size, size); /* they wait for it; where not all could be had, these do it all */
        run(&members[0]);
        for (int64_t number = 1; number < size; number++) pthread_join(helpers[number], NULL);
        pthread_cond_destroy(&team.next_round);
        pthread_mutex_destroy(&team.mutex);
    }
    free(helpers);
    free(members);
    free(memory);
    return failed;
}
