// The script of a character, for the pre-tokenizer that cuts between scripts.

/** Scripts of Unicode 12, which the reference's table knows. */
const NAMES = (
  'Common Latin Han Hiragana Katakana Cyrillic Greek Arabic Hebrew Devanagari Hangul Thai Inherited Adlam Ahom ' +
  'Anatolian_Hieroglyphs Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo Brahmi Braille ' +
  'Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Coptic Cuneiform Cypriot ' +
  'Deseret Duployan Egyptian_Hieroglyphs Elbasan Ethiopic Georgian Glagolitic Gothic Grantha Gujarati Gurmukhi ' +
  'Hanunoo Hatran Imperial_Aramaic Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Kayah_Li ' +
  'Kharoshthi Khmer Khojki Khudawadi Lao Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Malayalam Mandaic ' +
  'Manichaean Marchen Masaram_Gondi Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi ' +
  'Mongolian Mro Multani Myanmar Nabataean New_Tai_Lue Newa Nko Nushu Ogham Ol_Chiki Old_Hungarian Old_Italic ' +
  'Old_North_Arabian Old_Permic Old_Persian Old_South_Arabian Old_Turkic Oriya Osage Osmanya Pahawh_Hmong Palmyrene ' +
  'Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham ' +
  'SignWriting Sinhala Sora_Sompeng Soyombo Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet ' +
  'Takri Tamil Tangut Telugu Thaana Tibetan Tifinagh Tirhuta Ugaritic Vai Warang_Citi Yi Zanabazar_Square'
).split(' ');

let tests: (readonly [string, RegExp])[] | undefined;
const known = new Map<number, string | undefined>();
const MAX_KNOWN = 1 << 16;

/** Undefined for a character that has none of the scripts. */
export function scriptOf(codePoint: number): string | undefined {
  // The mark that lengthens a vowel, common to both kana.
  if (codePoint === 0x30fc) return 'Han';
  if (known.has(codePoint)) return known.get(codePoint);
  tests ??= NAMES.map((name) => [name, new RegExp(`^\\p{Script=${name}}$`, 'u')]);
  const character = String.fromCodePoint(codePoint);
  const found = tests.find(([, test]) => test.test(character))?.[0];
  const script = found === 'Hiragana' || found === 'Katakana' ? 'Han' : found;
  if (known.size < MAX_KNOWN) known.set(codePoint, script);
  return script;
}
