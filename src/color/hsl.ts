// HSL and back. h in degrees [0, 360), s and l in [0, 1]; channels r, g, b in [0, 1]. Grey has h 0 and s 0.

export type Hsl = { readonly h: number; readonly s: number; readonly l: number };

export function rgbToHsl(r: number, g: number, b: number): Hsl {
  const max = Math.max(r, g, b);
  const min = Math.min(r, g, b);
  const chroma = max - min;
  const l = (max + min) / 2;
  if (chroma === 0) return { h: 0, s: 0, l };
  let sextants: number;
  if (max === r) sextants = (g - b) / chroma + (g < b ? 6 : 0);
  else if (max === g) sextants = (b - r) / chroma + 2;
  else sextants = (r - g) / chroma + 4;
  return { h: sextants * 60, s: chroma / (1 - Math.abs(max + min - 1)), l };
}

/** h in [0, 360). */
export function hslToRgb({ h, s, l }: Hsl): [r: number, g: number, b: number] {
  const chroma = (1 - Math.abs(2 * l - 1)) * s;
  const sextants = h / 60;
  const middle = chroma * (1 - Math.abs((sextants % 2) - 1));
  const floor = l - chroma / 2;
  const high = floor + chroma;
  const mid = floor + middle;
  switch (Math.floor(sextants)) {
    case 0:
      return [high, mid, floor];
    case 1:
      return [mid, high, floor];
    case 2:
      return [floor, high, mid];
    case 3:
      return [floor, mid, high];
    case 4:
      return [mid, floor, high];
    default:
      return [high, floor, mid];
  }
}
