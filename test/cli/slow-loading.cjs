// Loaded before the program: its first native library comes from a slow disk.
const { dlopen } = process;
process.dlopen = (...args) => {
  process.dlopen = dlopen;
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);
  return dlopen(...args);
};
