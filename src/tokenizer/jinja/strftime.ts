// Dates as C's strftime writes them in the C locale, in the machine's time zone: what strftime_now gives.

const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];

/** A letter that is not known stays as it is. Flags as in glibc: `-` no padding, `_` blanks, `0` zeros, `^` capitals. */
export function formatTime(date: Date, format: string): string {
  return format.replace(/%([-_0^]?)([A-Za-z%])/g, (whole, flag: string, letter: string) => {
    const text = field(date, letter);
    if (text === undefined) return whole;
    const isNumber = /^\d+$/.test(text);
    if (flag === '-' && isNumber) return text.replace(/^[0 ]+(?=\d)/, '');
    if (flag === '-') return text.trimStart();
    if (flag === '_' && isNumber) return text.replace(/^0+(?=\d)/, (zeros) => ' '.repeat(zeros.length));
    if (flag === '0') return text.replace(/^ +(?=\d)/, (blanks) => '0'.repeat(blanks.length));
    return flag === '^' ? text.toUpperCase() : text;
  });
}

function field(date: Date, letter: string): string | undefined {
  const pad = (n: number, width = 2, fill = '0'): string => String(n).padStart(width, fill);
  const parts = (format: string): string => formatTime(date, format);
  const [hours, day, weekday, month] = [date.getHours(), date.getDate(), date.getDay(), date.getMonth()];
  const year = date.getFullYear();
  switch (letter) {
    case 'a':
      return DAYS[weekday]!.slice(0, 3);
    case 'A':
      return DAYS[weekday]!;
    case 'b':
    case 'h':
      return MONTHS[month]!.slice(0, 3);
    case 'B':
      return MONTHS[month]!;
    case 'c':
      return parts('%a %b %e %H:%M:%S %Y');
    case 'C':
      return pad(Math.floor(year / 100));
    case 'd':
      return pad(day);
    case 'D':
    case 'x':
      return parts('%m/%d/%y');
    case 'e':
      return pad(day, 2, ' ');
    case 'f':
      return pad(date.getMilliseconds() * 1000, 6);
    case 'F':
      return parts('%Y-%m-%d');
    case 'G':
      return String(isoWeek(date).year);
    case 'g':
      return pad(isoWeek(date).year % 100);
    case 'H':
      return pad(hours);
    case 'I':
      return pad(hours % 12 || 12);
    case 'j':
      return pad(dayOfYear(date), 3);
    case 'k':
      return pad(hours, 2, ' ');
    case 'l':
      return pad(hours % 12 || 12, 2, ' ');
    case 'm':
      return pad(month + 1);
    case 'M':
      return pad(date.getMinutes());
    case 'n':
      return '\n';
    case 'p':
      return hours < 12 ? 'AM' : 'PM';
    case 'P':
      return hours < 12 ? 'am' : 'pm';
    case 'r':
      return parts('%I:%M:%S %p');
    case 'R':
      return parts('%H:%M');
    case 's':
      return String(Math.floor(date.getTime() / 1000));
    case 'S':
      return pad(date.getSeconds());
    case 't':
      return '\t';
    case 'T':
    case 'X':
      return parts('%H:%M:%S');
    case 'u':
      return String(weekday || 7);
    case 'U':
      return pad(Math.floor((dayOfYear(date) + 6 - weekday) / 7));
    case 'V':
      return pad(isoWeek(date).week);
    case 'w':
      return String(weekday);
    case 'W':
      return pad(Math.floor((dayOfYear(date) + 6 - ((weekday + 6) % 7)) / 7));
    case 'y':
      return pad(year % 100);
    case 'Y':
      return String(year);
    // A naive time, as datetime.now() is, has no zone.
    case 'z':
    case 'Z':
      return '';
    case '%':
      return '%';
    default:
      return undefined;
  }
}

/** From 1. */
function dayOfYear(date: Date): number {
  const noon = Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  return Math.round((noon - Date.UTC(date.getFullYear(), 0, 1)) / 86_400_000) + 1;
}

/** The week that holds the year's first Thursday is its first. */
function isoWeek(date: Date): { readonly year: number; readonly week: number } {
  const weekday = date.getDay() || 7;
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate() + 4 - weekday);
  return { year: thursday.getFullYear(), week: Math.floor((dayOfYear(thursday) - 1) / 7) + 1 };
}
