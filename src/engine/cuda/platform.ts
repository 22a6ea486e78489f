import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** Why no machine of this kind has a CUDA driver; undefined where one may. */
export function whyNoCuda(): string | undefined {
  const { platform, arch } = process;
  if ((platform === 'linux' || platform === 'win32') && (arch === 'x64' || arch === 'arm64')) return undefined;
  return `CUDA needs Linux or Windows, this is ${platform} on ${arch}`;
}

/** How the reason of a backend that is only not there yet begins. */
export const COMPILING = 'the driver compiles the CUDA kernels';

/** The driver's library. */
export const driverLibrary = () => (process.platform === 'win32' ? 'nvcuda.dll' : 'libcuda.so.1');

/** Where NVIDIA's kernel driver shows itself: without it the library, if there is one, finds no card. */
const DRIVER_SIGNS = ['/dev/nvidiactl', '/dev/nvidia0', '/dev/dxg', '/dev/nvhost-ctrl', '/proc/driver/nvidia'];

/** Without looking for the library: undefined where a driver may be. */
export function whyNoDriver(): string | undefined {
  const elsewhere = whyNoCuda();
  if (elsewhere !== undefined) return elsewhere;
  const signs =
    process.platform === 'win32'
      ? [join(process.env.SystemRoot ?? 'C:\\Windows', 'System32', driverLibrary())]
      : DRIVER_SIGNS;
  return signs.some((path) => existsSync(path)) ? undefined : 'there is no NVIDIA driver on this machine';
}
