// The addons of Windows ask for Node's functions when they first call one, and this answers whose those are: the program
// that loaded them, whatever it is called. A plain import of node.exe fails wherever the host has another name (Electron,
// a renamed node.exe). Linked into both addons; see scripts/prebuild.mjs.
#include <windows.h>
// After windows.h.
#include <delayimp.h>
#include <string.h>

static FARPROC WINAPI find_host(unsigned event, PDelayLoadInfo info) {
  if (event != dliNotePreLoadLibrary || _stricmp(info->szDll, "node.exe") != 0) return nullptr;
  HMODULE host = GetModuleHandleW(nullptr);
  // Programs that embed Node as a library have its functions there.
  if (!GetProcAddress(host, "napi_create_function")) {
    if (HMODULE library = GetModuleHandleW(L"libnode.dll")) host = library;
  }
  return (FARPROC)host;
}

extern "C" PfnDliHook __pfnDliNotifyHook2 = find_host;
