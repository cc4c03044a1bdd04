/*
 * Where "fill mappings" puts its mappings and "contend map-in-gap" its own: cells
 * of four pages, the first page of a cell mapped, the third free to be mapped. The
 * pages between keep neighbours apart, so that nothing can be joined.
 */
#ifndef BENCH_PROBES_GRID_H
#define BENCH_PROBES_GRID_H

#define GRID_STRIDE (4 * 4096UL)
#define GRID_CELLS 60000UL

#endif
