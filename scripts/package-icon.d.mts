export function iconPng(): Uint8Array;
