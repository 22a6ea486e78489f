// OKLCH: lightness, chroma and hue as an eye sees them. Source of the matrices: Björn Ottosson, "A perceptual color
// space for image processing" (2020). Linear light after IEC 61966-2-1 (sRGB).

export type Oklch = { readonly l: number; readonly c: number; readonly h: number };

/** Linear light of every 8-bit sRGB value. */
const LINEAR = Float64Array.from({ length: 256 }, (_, byte) => {
  const v = byte / 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
});

/** Linear light in [0, 1] of an 8-bit sRGB channel. */
export function linearLight(byte: number): number {
  return LINEAR[byte]!;
}

/** The nearest 8-bit sRGB channel of linear light in [0, 1]. */
export function channelOfLinearLight(light: number): number {
  const v = light <= 0.0031308 ? light * 12.92 : 1.055 * light ** (1 / 2.4) - 0.055;
  return Math.round(255 * Math.min(1, Math.max(0, v)));
}

/** l in [0, 1], c >= 0, h in degrees [0, 360); r, g, b are 8-bit. A grey has c 0 and h 0. */
export function rgbToOklch(r: number, g: number, b: number): Oklch {
  const red = LINEAR[r]!;
  const green = LINEAR[g]!;
  const blue = LINEAR[b]!;
  const long = Math.cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue);
  const medium = Math.cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue);
  const short = Math.cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue);
  const l = 0.2104542553 * long + 0.793617785 * medium - 0.0040720468 * short;
  // The rows of the next two sum to 0 only to 1e-8: a grey would show a hue that is rounding alone.
  if (r === g && g === b) return { l, c: 0, h: 0 };
  const greenRed = 1.9779984951 * long - 2.428592205 * medium + 0.4505937099 * short;
  const blueYellow = 0.0259040371 * long + 0.7827717662 * medium - 0.808675766 * short;
  const degrees = Math.atan2(blueYellow, greenRed) * (180 / Math.PI);
  return { l, c: Math.sqrt(greenRed * greenRed + blueYellow * blueYellow), h: degrees < 0 ? degrees + 360 : degrees };
}
